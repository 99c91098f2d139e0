// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/projection.h"

#include <ATen/ATen.h>

#include "core/rescaling.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

at::Tensor times(const at::Tensor& t, double scale) { return scale == 1.0 ? t : t * scale; }

}  // namespace

ParameterSpecs Projection::parameters() const {
  ParameterSpecs specs = matrix_->parameters();
  if (bias_) specs.push_back({"bias", {matrix_->d_out()}, Initial::zeros(), "bias.{adapter}"});
  return specs;
}

at::Tensor Projection::apply(const at::Tensor& x, const Params& params, const at::Tensor& y) const {
  const Params own = this->own(params);
  if (!y.defined()) {
    const at::Tensor out = times(matrix_->apply(x, own), scale());
    return bias_ ? out + bias(params, out) : out;
  }
  const at::Tensor out = matrix_->accumulate(y, false, x, own, scale());
  return bias_ ? out.add_(as(own["bias"], out), scale_) : out;  // `out` is fresh and saved by nothing
}

at::Tensor Projection::bias(const Params& params, const at::Tensor& x) const {
  return bias_ ? as(times(own(params)["bias"], scale_), x) : at::Tensor();
}

bool Projection::multiplies_dense(const at::Tensor& x, const Params& params) const {
  const Params own = this->own(params);
  return Update(*matrix_, own, scale()).multiplies_dense(x);
}

std::vector<at::Tensor> Projection::forward(const Dropped& x, const at::Tensor& y, const Params& params) const {
  const Params own = this->own(params);
  return Update(*matrix_, own, scale()).forward(x, {{}, y, bias(params, x.x)});
}

std::vector<at::Tensor> Projection::backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual,
                                             const Params& params, const std::vector<at::Tensor>& kept,
                                             bool wants_x) const {
  const Params own = this->own(params);
  auto gradients = Update(*matrix_, own, scale()).backward(dy, x, {{}, residual, {}}, kept, wants_x);
  if (bias_ && !dy.is_meta()) set_gradient(gradients, own, "bias", times(sum_of_rows(dy), scale_));
  return gradients;
}

std::vector<at::Tensor> Projection::gradients(const Recorded& own, const at::Tensor& dense, const at::Tensor& bias,
                                              const Params& params) const {
  auto gradients = own.gradients({dense});
  if (bias_) set_gradient(gradients, this->own(params), "bias", times(bias, scale_));
  return gradients;
}

}  // namespace veneer
