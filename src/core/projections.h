// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two projections with a nonlinearity between: residual + up(act(down(x))). Composed of differentiable calls, and with
// gradients written out; where both are multiplied dense and are narrow, as one NarrowLayer. x [N, d_in].
#pragma once

#include <string>
#include <vector>

#include "core/narrow_layer.h"
#include "core/projection.h"

namespace veneer {

class Projections {
 public:
  Projections(Projection down, Projection up, std::string activation)
      : down_(std::move(down)), up_(std::move(up)), activation_(std::move(activation)) {}

  const Projection& down() const { return down_; }
  const Projection& up() const { return up_; }

  // The output [N, d_out], differentiable.
  at::Tensor apply(const at::Tensor& x, const Params& params, const at::Tensor& residual) const;

  // Without gradients, x and residual [N, d_out] contiguous: the output, the inner state [N, m] before its
  // nonlinearity, and what the matrices keep.
  std::vector<at::Tensor> forward(const Dropped& x, const at::Tensor& residual, const Params& params) const;
  // From dy [N, d_out], contiguous, and all that forward gave but the output, the gradients of all parameters of the
  // method, undefined for those of others, and where it is wanted that of x, to which `residual` [N, d_in] is added,
  // if it is defined.
  std::vector<at::Tensor> backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual,
                                   const Params& params, const std::vector<at::Tensor>& kept, bool wants_x) const;

 private:
  int64_t inner_size() const { return down_.matrix().d_out(); }
  bool both_dense(const at::Tensor& x, const Params& params) const;
  NarrowLayer layer(const at::Tensor& x, const Params& params, const at::Tensor& down, const at::Tensor& up) const;
  std::vector<at::Tensor> backward_of_layer(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual,
                                            const Params& params, const at::Tensor& z, bool wants_x) const;

  Projection down_, up_;
  std::string activation_;
};

}  // namespace veneer
