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

// Whether x [N, d_in] is multiplied with the dense matrix, made once a call, though it has a structure: for many rows
// where a narrow one is a thin product, or where its own products cost more.
bool as_dense(const Matrix& matrix, const at::Tensor& x) {
  if (matrix.form() != Matrix::Form::other || x.is_meta() || matrix.tiled(x)) return false;
  const int64_t less = std::min(matrix.d_in(), matrix.d_out());
  return x.size(0) >= 2 * less && (is_narrow(matrix.d_out(), matrix.d_in()) || matrix.costly());
}

}  // namespace

void set_gradient(Tensors& gradients, const Params& params, const char* name, const at::Tensor& gradient) {
  const size_t place = params.place(name);
  if (params.specs()[place].trainable) gradients[place] = as(gradient, params.tensors()[place]);
}

const Tensors& Update::factors(const at::Tensor& x) const {
  if (factors_.empty() && matrix_.form() == Matrix::Form::factors) {
    factors_ = matrix_.prepare(params_);
    if (!x.is_meta()) factors_ = factors_as(factors_, x);
  }
  return factors_;
}

bool Update::merges(const Dropped& x, const Base& base, const Tensors& factors) const {
  return base.weight.defined() && !x.seed.defined() && !x.x.is_meta() &&
         wide_type(x.x.scalar_type()) == x.x.scalar_type() &&
         x.x.size(0) >= 2 * std::min(matrix_.d_in(), matrix_.d_out()) &&
         (matrix_.form() != Matrix::Form::factors || factors[0].size(0) > limits().multiplied_rank);
}

bool Update::multiplies_dense(const at::Tensor& x) const {
  return matrix_.form() == Matrix::Form::dense || as_dense(matrix_, x);
}

std::string Update::route(const Dropped& x, const Base& base, const Tensors& factors) const {
  if (merges(x, base, factors)) return "M is added to the weight: many rows, no dropout, more than 16 bits";
  if (as_dense(matrix_, x.x)) {
    return std::string("M is made dense: many rows, and ") +
           (matrix_.costly() ? "its own products cost more" : "it is narrow");
  }
  switch (matrix_.form()) {
    case Matrix::Form::factors: {
      const int64_t rank = factors[0].size(0);
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
  const Tensors& factors = this->factors(x.x);
  if (routes_wanted() && !x.x.is_meta() && x.x.size(0) > 0) {
    add_route(c10::str("M [", matrix_.d_out(), ", ", matrix_.d_in(), "], ", x.x.size(0), " rows of ", x.x.scalar_type(),
                       ": ", route(x, base, factors)));
  }
  if (merges(x, base, factors)) {
    Tensors result{at::linear(x.x, matrix_.merged(base.weight, params_, scale_), base.bias)};
    if (!factors.empty()) result.push_back(reduce(x, factors[0], scale_));
    return with_gain(std::move(result), gain, base.bias);
  }
  if (x.x.is_meta() || x.x.size(0) == 0) {
    Tensors result{at::empty_symint({x.x.sym_size(0), matrix_.d_out()}, x.x.options())};
    if (!factors.empty()) {
      result.push_back(at::empty_symint({x.x.sym_size(0), factors[0].sym_size(0)}, x.x.options()));
    }
    if (gain.defined()) result.push_back(at::empty_like(result[0]));
    return result;
  }
  const bool dense = as_dense(matrix_, x.x);
  const Tensors tensors = !factors.empty() ? factors
                          : dense          ? Tensors{matrix_.build(params_)}
                                           : matrix_.prepare(params_);
  return Prepared{matrix_, dense ? Matrix::Form::dense : matrix_.form(), tensors, scale_}.forward(x, base, gain);
}

std::vector<at::Tensor> Update::backward(const at::Tensor& dy, const Dropped& x, const Base& base, const Tensors& kept,
                                         bool wants_x, const Gain& gain) const {
  if (dy.is_meta()) {
    Tensors gradients(params_.tensors().size());
    if (wants_x) gradients.push_back(at::empty_like(x.x));
    return gradients;
  }
  const bool dense = as_dense(matrix_, x.x) && !merges(x, base, {});  // never of two factors
  const Matrix::Form form = dense ? Matrix::Form::dense : matrix_.form();
  const Recorded recorded(matrix_, params_, dense);
  const Tensors& prepared = recorded.prepared();
  const bool merged = merges(x, base, prepared);
  Prepared::Gradients found;
  {
    const c10::NoGradGuard no_grad;
    const Prepared update{matrix_, form, prepared, scale_};
    const at::Tensor h = kept.empty() ? at::Tensor() : kept[0];
    // The rows of the weight are scaled by a gain where that is made anew or all is one product, dy elsewhere.
    Rescaled rescaled;
    if (gain.g.defined() && (merged || !wants_x || !update.in_product(dy, x, base))) {
      rescaled = rescaled_pullback(dy, gain.y, base.bias, gain.g, /*wants_y=*/!merged);
    }
    const at::Tensor& slopes = rescaled.y.defined() ? rescaled.y : dy;
    found = update.backward(slopes, x, base, h, rescaled.y.defined() ? Gain() : gain, wants_x && !merged);
    if (merged && wants_x) {
      const at::Tensor all = form == Matrix::Form::dense ? base.weight.add(as(prepared[0], dy), scale_)
                                                         : matrix_.merged(base.weight, params_, scale_);
      found.x = at::mm(dy, gained(all, gain.g));
    }
    if (rescaled.gain.defined()) found.gain = rescaled.gain / gain.n;
  }
  Tensors gradients = recorded.gradients(std::move(found.tensors));
  if (wants_x) gradients.push_back(found.x);
  if (gain.g.defined()) gradients.push_back(found.gain);
  return gradients;
}

}  // namespace veneer
