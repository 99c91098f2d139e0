// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/prepared.h"

#include <ATen/ATen.h>

#include "core/products.h"
#include "core/rescaling.h"
#include "device/extended.h"
#include "device/plain.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using Tensors = std::vector<at::Tensor>;

// t, contiguous and nobody else's: it is just made, but for what may be `other` itself.
at::Tensor fresh(const at::Tensor& t, const at::Tensor& other) {
  return t.is_alias_of(other) ? t.clone(at::MemoryFormat::Contiguous) : t.contiguous();
}

// The layer's own product comes last: it adds to what there is for nothing, and an update is written only once.
at::Tensor with_layer(const at::Tensor& y, const Dropped& x, const Base& base) {
  return base.weight.defined() ? y.addmm_(x.x, base.weight.t()) : y;
}
at::Tensor plus(const at::Tensor& t, const at::Tensor& more) { return more.defined() ? t.add_(more) : t; }
at::Tensor with_layer_turned(const at::Tensor& dx, const at::Tensor& dy, const Base& base) {
  return base.weight.defined() ? dx.addmm_(dy, base.weight) : dx;
}
// dx of h [N, r] with the factor [r, d_in], and of the base.
at::Tensor turned(const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& x, const at::Tensor& dy,
                  const Base& base) {
  return with_layer_turned(expand(h, factor, scale, x, {}, base.y), dy, base);
}

}  // namespace

bool whole(const Matrix& matrix, const std::vector<at::Tensor>& prepared, const at::Tensor& x) {
  int64_t numbers = 0;
  for (const auto& tensor : prepared) numbers += tensor.numel();
  return !device::on_cpu(x) || matrix.tiled(x) || numbers * row_strips > x.numel();
}

std::vector<at::Tensor> with_gain(std::vector<at::Tensor> result, const at::Tensor& gain, const at::Tensor& bias) {
  if (!gain.defined()) return result;
  result.push_back(result[0]);
  result[0] = rescaled(result[0], gain, bias);
  return result;
}

std::vector<at::Tensor> Prepared::forward(const Dropped& x, const Base& base, const at::Tensor& gain) const {
  const at::Tensor &bias = base.bias, &y = base.y;
  switch (form) {
    case Matrix::Form::factors: {
      const at::Tensor h = reduce(x, tensors[0], scale), b = tensors[1];
      if (base.weight.defined() && device::takes_extended(x.x, base.weight, h.size(1))) {
        if (!gain.defined()) return {device::extended(x.x, base.weight, h, b, bias), h};
        const auto [scaled, plain] = device::extended_gained(x.x, base.weight, h, b, bias, gain, /*gains_bias=*/false);
        return {scaled, h, plain};
      }
      return with_gain({with_layer(expand(h, b.t(), 1.0, {}, bias, y), x, base), h}, gain, bias);
    }
    case Matrix::Form::dense: {
      const at::Tensor m = as(tensors[0], x.x);
      if (thin_input()) {
        return with_gain({with_layer(expand(x.part(0, x.x.size(0)), m.t(), scale, {}, bias, y), x, base)}, gain, bias);
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

bool Prepared::in_product(const at::Tensor& dy, const Dropped& x, const Base& base) const {
  if (form != Matrix::Form::factors || !base.weight.defined()) return false;
  const int64_t rank = tensors[0].size(0);
  return device::takes_extended(dy, base.weight, rank) && device::takes_extended_gradients(dy, base.weight, x, rank);
}

Prepared::Gradients Prepared::backward(const at::Tensor& dy, const Dropped& x, const Base& base, const at::Tensor& h,
                                       const Gain& scaling, bool wants_x) const {
  const at::Tensor& gain = scaling.g;
  at::Tensor dx;
  switch (form) {
    case Matrix::Form::factors: {
      const auto factors = factors_as(tensors, dy);
      const at::Tensor &a = factors[0], &b = factors[1];
      const at::Tensor factor = scaled_rows(b, gain);
      const auto [dh, db] = reduce_and_sum(dy, factor.t(), h, scale, 1.0, rounded(1, dy), gain);
      if (wants_x && in_product(dy, x, base)) {
        const auto found = device::extended_gradients(dy, dh, {base.weight, x, a, rounded(0, dy), scaling, base.bias});
        return {{found.a, db}, found.x, found.gain};
      }
      if (wants_x && base.weight.defined() && device::takes_extended(dy, base.weight, dh.size(1)) &&
          device::takes_extended_mask(base.weight, x)) {
        dx = device::extended_turned(dy, base.weight, dh, a, x);
      } else if (wants_x) {
        dx = turned(dh, a, 1.0, x, dy, base);
      }
      return {{sum_rows(x, dh, 1.0, rounded(0, dy)), db}, dx, {}};
    }
    case Matrix::Form::dense: {
      const at::Tensor m = as(tensors[0], dy);
      if (!wants_x || !thin_input()) {
        if (wants_x) dx = turned(dy, m, scale, x, dy, base);
        return {{gained(sum_rows(x, dy, scale, rounded(0, dy)), gain)}, dx, {}};
      }
      const auto [back, dm] = reduce_and_sum(dy, m.t(), x.part(0, dy.size(0)), scale, scale, rounded(0, dy));
      dx = with_layer_turned(plus(x.masked(back), base.y), dy, base);
      return {{gained(dm, gain)}, dx, {}};
    }
    case Matrix::Form::other: break;
  }
  Tensors sums = by_pullback(dy, x, gain, wants_x, dx);
  if (wants_x) dx = with_layer_turned(plus(dx, base.y), dy, base);
  return {std::move(sums), dx, {}};
}

std::vector<at::Tensor> Prepared::by_pullback(const at::Tensor& dy, const Dropped& x, const at::Tensor& gain,
                                              bool wants_x, at::Tensor& dx) const {
  if (matrix.costly() && !matrix.tiled(x.x) && !wants_x && !x.seed.defined() && x.x.size(0) >= 2 * matrix.d_in() &&
      wide_type(x.x.scalar_type()) == x.x.scalar_type()) {
    const at::Tensor unit = at::eye(matrix.d_in(), x.x.options());  // whose row i is multiplied to column i of M
    return by_pullback(at::mm(x.x.t(), dy), {unit}, gain, false, dx);
  }
  const bool at_once = whole(matrix, tensors, x.x);
  Tensors sums;  // [strips, *] of each tensor that wants a gradient; of one part, what was found of it
  for (const auto& tensor : tensors) {
    std::vector<int64_t> sizes = tensor.sizes().vec();
    if (!at_once) sizes.insert(sizes.begin(), strips_of(x.x));
    const auto options = tensor.options().dtype(wide_type(tensor.scalar_type()));
    const bool zeros = tensor.requires_grad() && (!at_once || x.x.size(0) == 0);
    sums.push_back(zeros ? at::zeros(sizes, options) : at::Tensor());
  }
  if (wants_x && (!at_once || x.x.size(0) == 0)) dx = at::empty_like(x.x);
  by_rows(x.x, at_once, [&](int64_t begin, int64_t end, int64_t strip) {
    at::Tensor g = dy.narrow(0, begin, end - begin);
    if (gain.defined()) g = g * as(gain, g);
    const auto found = matrix.pullback(x.part(begin, end), g, tensors, wants_x);
    for (size_t i = 0; i < sums.size(); ++i) {
      const at::Tensor& more = found[i + 1];
      if (!more.defined() || !tensors[i].requires_grad()) continue;
      if (at_once) {
        sums[i] = scale == 1.0 ? wide(more) : wide(more) * scale;
      } else {
        sums[i].select(0, strip).add_(more, scale);
      }
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
    if (sum.defined() && !at_once) sum = over_strips(sum);
  }
  return sums;
}

}  // namespace veneer
