// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/update.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/limits.h"
#include "core/products.h"
#include "core/recorded.h"
#include "core/rescaling.h"
#include "core/routes.h"
#include "device/extended.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using Tensors = std::vector<at::Tensor>;

// t, its rows scaled by the gain where there is one; t may be overwritten.
at::Tensor gained(const at::Tensor& t, const at::Tensor& gain) {
  return gain.defined() ? t.mul_(as(gain, t).unsqueeze(1)) : t;
}

// Whether a matrix is given all rows at once: on a GPU, or where it goes through them itself, or where the sums of
// gradients, which are held once for each strip, are not small beside x: then products are large too, and ATen's own
// threads serve them.
bool whole(const Matrix& matrix, const Tensors& prepared, const at::Tensor& x) {
  int64_t numbers = 0;
  for (const auto& tensor : prepared) numbers += tensor.numel();
  return !x.is_cpu() || matrix.tiled(x) || numbers * row_strips > x.numel();
}

// t, contiguous and nobody else's: it is just made, but for what may be `other` itself.
at::Tensor fresh(const at::Tensor& t, const at::Tensor& other) {
  return t.is_alias_of(other) ? t.clone(at::MemoryFormat::Contiguous) : t.contiguous();
}

// Whether x [N, d_in] is multiplied with the dense matrix, made once a call, though it has a structure: for many rows
// where a narrow one is a thin product, or where its own products cost more.
bool as_dense(const Matrix& matrix, const at::Tensor& x) {
  if (matrix.form() != Matrix::Form::other || x.is_meta() || matrix.tiled(x)) return false;
  const int64_t less = std::min(matrix.d_in(), matrix.d_out());
  return x.size(0) >= 2 * less && (less <= narrow_side || matrix.costly());
}

// A forward's output and what it keeps, the output rescaled and the one without the gain last, where there is a gain.
Tensors with_gain(Tensors result, const at::Tensor& gain, const at::Tensor& bias) {
  if (!gain.defined()) return result;
  result.push_back(result[0]);
  result[0] = rescaled(result[0], gain, bias);
  return result;
}

// What a matrix prepared for products adds to an output, and what it gives of gradients.
struct Prepared {
  const Matrix& matrix;
  Matrix::Form form;
  const Tensors& tensors;
  double scale;

  // Dense, with the input the thin side.
  bool thin_input() const { return matrix.d_in() <= matrix.d_out(); }

  Tensors forward(const Dropped& x, const Base& base, const at::Tensor& gain) const {
    const at::Tensor &bias = base.bias, &y = base.y;
    switch (form) {
      case Matrix::Form::factors: {
        const at::Tensor h = reduce(x, as(tensors[0], x.x), scale), b = as(tensors[1], x.x);
        if (base.weight.defined() && device::takes_extended(x.x, base.weight, h.size(1))) {
          if (!gain.defined()) return {device::extended(x.x, base.weight, h, b, bias), h};
          const auto [scaled, plain] = device::extended_gained(x.x, base.weight, h, b, bias, gain);
          return {scaled, h, plain};
        }
        return with_gain({with_layer(expand(h, b.t(), 1.0, {}, bias, y), x, base), h}, gain, bias);
      }
      case Matrix::Form::dense: {
        const at::Tensor m = as(tensors[0], x.x);
        if (thin_input()) {
          return with_gain({with_layer(expand(x.part(0, x.x.size(0)), m.t(), scale, {}, bias, y), x, base)}, gain,
                           bias);
        }
        const at::Tensor sum = reduce(x, m, scale);
        if (bias.defined()) add_to_columns(sum, bias);
        if (y.defined()) sum.add_(y);
        return with_gain({with_layer(sum, x, base)}, gain, bias);
      }
      case Matrix::Form::other: break;
    }
    if (whole(matrix, tensors, x.x)) {
      at::Tensor sum = fresh(as(matrix.product(x.part(0, x.x.size(0)), tensors), x.x), x.x);
      if (scale != 1.0) sum.mul_(scale);
      if (bias.defined()) add_to_columns(sum, bias);
      if (y.defined()) sum.add_(y);
      return with_gain({with_layer(sum, x, base)}, gain, bias);
    }
    const at::Tensor sum = at::empty({x.x.size(0), matrix.d_out()}, x.x.options());
    by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t) {
      at::Tensor to = sum.narrow(0, begin, end - begin);
      const at::Tensor part = matrix.product(x.part(begin, end), tensors);
      if (y.defined()) {
        at::add_out(to, y.narrow(0, begin, end - begin), as(part, to), scale);
        if (bias.defined()) to.add_(bias);
      } else if (bias.defined()) {
        at::add_out(to, bias, as(part, to), scale);
      } else {
        to.copy_(scale == 1.0 ? part : part * scale);
      }
    });
    return with_gain({with_layer(sum, x, base)}, gain, bias);
  }

  // The gradients of what was prepared; and where it is wanted, in dx, that of x.
  Tensors backward(const at::Tensor& dy, const Dropped& x, const Base& base, const at::Tensor& h,
                   const at::Tensor& gain, bool wants_x, at::Tensor& dx) const {
    switch (form) {
      case Matrix::Form::factors: {
        const at::Tensor a = as(tensors[0], dy), b = as(tensors[1], dy);
        const at::Tensor factor = gain.defined() ? gained(b.clone(), gain) : b;
        const auto [dh, db] = reduce_and_sum(dy, factor.t(), h, scale, 1.0, rounded(1, dy));
        if (wants_x && base.weight.defined() && device::takes_extended(dy, base.weight, dh.size(1)) &&
            device::takes_extended_mask(base.weight, x)) {
          dx = device::extended_turned(dy, base.weight, dh, a, x);
        } else if (wants_x) {
          dx = turned(dh, a, 1.0, x, dy, base);
        }
        return {sum_rows(x, dh, 1.0, rounded(0, dy)), gained(db, gain)};
      }
      case Matrix::Form::dense: {
        const at::Tensor m = as(tensors[0], dy);
        if (!wants_x || !thin_input()) {
          if (wants_x) dx = turned(dy, m, scale, x, dy, base);
          return {gained(sum_rows(x, dy, scale, rounded(0, dy)), gain)};
        }
        const auto [back, dm] = reduce_and_sum(dy, m.t(), x.part(0, dy.size(0)), scale, scale, rounded(0, dy));
        dx = with_layer_turned(plus(x.masked(back), base.y), dy, base);
        return {gained(dm, gain)};
      }
      case Matrix::Form::other: break;
    }
    Tensors sums = by_pullback(dy, x, gain, wants_x, dx);
    if (wants_x) dx = with_layer_turned(plus(dx, base.y), dy, base);
    return sums;
  }

 private:
  // Whether the gradient of what was prepared is wanted in dy's dtype.
  bool rounded(size_t i, const at::Tensor& dy) const { return tensors[i].scalar_type() == dy.scalar_type(); }

  // The layer's own product comes last: it adds to what there is for nothing, and an update is written only once.
  static at::Tensor with_layer(const at::Tensor& y, const Dropped& x, const Base& base) {
    return base.weight.defined() ? y.addmm_(x.x, base.weight.t()) : y;
  }
  static at::Tensor plus(const at::Tensor& t, const at::Tensor& more) { return more.defined() ? t.add_(more) : t; }
  // dx of h [N, r] with the factor [r, d_in], and of the base.
  static at::Tensor turned(const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& x,
                           const at::Tensor& dy, const Base& base) {
    if (!x.seed.defined()) return with_layer_turned(expand(h, factor, scale, {}, {}, base.y), dy, base);
    return with_layer_turned(plus(expand(h, factor, scale, x), base.y), dy, base);
  }
  static at::Tensor with_layer_turned(const at::Tensor& dx, const at::Tensor& dy, const Base& base) {
    return base.weight.defined() ? dx.addmm_(dy, base.weight) : dx;
  }

  Tensors by_pullback(const at::Tensor& dy, const Dropped& x, const at::Tensor& gain, bool wants_x,
                      at::Tensor& dx) const {
    if (matrix.costly() && !matrix.tiled(x.x) && !wants_x && !x.seed.defined() && x.x.size(0) >= 2 * matrix.d_in() &&
        wide_type(x.x.scalar_type()) == x.x.scalar_type()) {
      const at::Tensor unit = at::eye(matrix.d_in(), x.x.options());  // whose row i is multiplied to column i of M
      return by_pullback(at::mm(x.x.t(), dy), {unit}, gain, false, dx);
    }
    const bool at_once = whole(matrix, tensors, x.x);
    Tensors sums;
    for (const auto& tensor : tensors) {
      std::vector<int64_t> sizes = tensor.sizes().vec();
      sizes.insert(sizes.begin(), at_once ? 1 : strips_of(x.x));
      const auto options = tensor.options().dtype(wide_type(tensor.scalar_type()));
      sums.push_back(tensor.requires_grad() ? at::zeros(sizes, options) : at::Tensor());
    }
    if (wants_x && (!at_once || x.x.size(0) == 0)) dx = at::empty_like(x.x);
    by_rows(x.x, at_once, [&](int64_t begin, int64_t end, int64_t strip) {
      at::Tensor g = dy.narrow(0, begin, end - begin);
      if (gain.defined()) g = g * as(gain, g);
      const auto found = matrix.pullback(x.part(begin, end), g, tensors, wants_x);
      for (size_t i = 0; i < sums.size(); ++i) {
        if (sums[i].defined() && found[i + 1].defined()) sums[i].select(0, strip).add_(found[i + 1], scale);
      }
      if (!wants_x) return;
      if (at_once) {
        dx = found[0].defined() ? fresh(x.masked(as(found[0], x.x)), dy) : at::zeros_like(x.x);
        if (scale != 1.0) dx.mul_(scale);
        return;
      }
      const at::Tensor to = dx.narrow(0, begin, end - begin);
      if (!found[0].defined()) {
        to.zero_();
      } else if (x.seed.defined()) {
        x.put_part(dx, as(scale == 1.0 ? found[0] : found[0] * scale, dx).contiguous(), begin);
      } else {
        scale == 1.0 ? to.copy_(found[0]) : to.copy_(found[0] * scale);
      }
    });
    for (auto& sum : sums) {
      if (sum.defined()) sum = sum.sum(0);
    }
    return sums;
  }
};

}  // namespace

void fill_with_zeros(Tensors& gradients, const Params& params) {
  for (size_t i = 0; i < params.tensors().size(); ++i) {
    if (params.specs()[i].trainable && !gradients[i].defined()) {
      gradients[i] = at::zeros_like(params.tensors()[i].detach());
    }
  }
}

bool Update::merges(const Dropped& x, const Base& base) const {
  return base.weight.defined() && !x.seed.defined() && !x.x.is_meta() &&
         wide_type(x.x.scalar_type()) == x.x.scalar_type() &&
         x.x.size(0) >= 2 * std::min(matrix_.d_in(), matrix_.d_out()) &&
         (matrix_.form() != Matrix::Form::factors || matrix_.prepare(params_)[0].size(0) > limits().multiplied_rank);
}

bool Update::multiplies_dense(const at::Tensor& x) const {
  return matrix_.form() == Matrix::Form::dense || as_dense(matrix_, x);
}

std::string Update::route(const Dropped& x, const Base& base) const {
  if (merges(x, base)) return "M is added to the weight: many rows, no dropout, more than 16 bits";
  if (as_dense(matrix_, x.x)) {
    return std::string("M is made dense: many rows, and ") +
           (matrix_.costly() ? "its own products cost more" : "it is narrow");
  }
  switch (matrix_.form()) {
    case Matrix::Form::factors: {
      const int64_t rank = matrix_.prepare(params_)[0].size(0);
      if (base.weight.defined() && device::takes_extended(x.x, base.weight, rank)) {
        return "two factors, in the layer's own product";
      }
      return "two factors: " + products_served_by(x, rank);
    }
    case Matrix::Form::dense: return "dense: " + products_served_by(x, std::min(matrix_.d_in(), matrix_.d_out()));
    case Matrix::Form::other: break;
  }
  if (matrix_.tiled(x.x)) return "its own products: tiles of rows, on all threads";
  return whole(matrix_, matrix_.prepare(params_), x.x) ? "its own products, all rows at once"
                                                       : "its own products: parts of the rows, on all threads";
}

std::vector<at::Tensor> Update::forward(const Dropped& x, const Base& base, const at::Tensor& gain) const {
  const bool factors = matrix_.form() == Matrix::Form::factors;
  if (routes_wanted() && !x.x.is_meta() && x.x.size(0) > 0) {
    add_route(c10::str("M [", matrix_.d_out(), ", ", matrix_.d_in(), "], ", x.x.size(0), " rows of ", x.x.scalar_type(),
                       ": ", route(x, base)));
  }
  if (merges(x, base)) {
    Tensors result{at::linear(x.x, matrix_.merged(base.weight, params_, scale_), base.bias)};
    if (factors) result.push_back(reduce(x, as(matrix_.prepare(params_)[0], x.x), scale_));
    return with_gain(std::move(result), gain, base.bias);
  }
  if (x.x.is_meta() || x.x.size(0) == 0) {
    Tensors result{at::empty_symint({x.x.sym_size(0), matrix_.d_out()}, x.x.options())};
    if (factors) {
      result.push_back(at::empty_symint({x.x.sym_size(0), matrix_.prepare(params_)[0].sym_size(0)}, x.x.options()));
    }
    if (gain.defined()) result.push_back(at::empty_like(result[0]));
    return result;
  }
  const bool dense = as_dense(matrix_, x.x);
  const Tensors tensors = dense ? Tensors{matrix_.build(params_)} : matrix_.prepare(params_);
  return Prepared{matrix_, dense ? Matrix::Form::dense : matrix_.form(), tensors, scale_}.forward(x, base, gain);
}

std::vector<at::Tensor> Update::backward(const at::Tensor& dy, const Dropped& x, const Base& base, const Tensors& kept,
                                         bool wants_x, const at::Tensor& gain) const {
  if (dy.is_meta()) {
    Tensors gradients(params_.tensors().size());
    if (wants_x) gradients.push_back(at::empty_like(x.x));
    return gradients;
  }
  const bool merged = merges(x, base), dense = !merged && as_dense(matrix_, x.x);
  const Matrix::Form form = dense ? Matrix::Form::dense : matrix_.form();
  const Recorded recorded(matrix_, params_, dense);
  const Tensors& prepared = recorded.prepared();
  Tensors sums;
  at::Tensor dx;
  {
    const c10::NoGradGuard no_grad;
    if (merged && wants_x) {
      const at::Tensor all = form == Matrix::Form::dense ? base.weight.add(as(prepared[0], dy), scale_)
                                                         : matrix_.merged(base.weight, params_, scale_);
      dx = at::mm(dy, gained(all, gain));
    }
    const at::Tensor h = kept.empty() ? at::Tensor() : kept[0];
    sums = Prepared{matrix_, form, prepared, scale_}.backward(dy, x, base, h, gain, wants_x && !merged, dx);
  }
  Tensors gradients = recorded.gradients(std::move(sums));
  if (wants_x) gradients.push_back(dx);
  return gradients;
}

}  // namespace veneer
