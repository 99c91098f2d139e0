// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two dense matrices with a nonlinearity and few numbers between them, an adapter layer's down and up projection, with
// gradients written out. On a CPU, where its own kernels serve (products.h), one loop each way: a tile of rows comes
// into the cache and is projected down, activated, projected up and added to its residual there. Without gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "core/dropped.h"

namespace veneer {

// base + up_scale * act(z) up^T + up_bias with z = down_scale * dropout(x) down^T + down_bias. All in x's dtype.
struct NarrowLayer {
  std::string activation;  // see core/activation.h
  at::Tensor down;         // [m, d_in]
  at::Tensor down_bias;    // [m], or undefined
  at::Tensor up;           // [d_out, m]
  at::Tensor up_bias;      // [d_out], or undefined
  double down_scale = 1.0, up_scale = 1.0;
  bool rounded = true;  // whether x's dtype will do for the gradients of what is trained

  struct Output {
    at::Tensor y;  // [N, d_out]
    at::Tensor z;  // [N, m], which backward wants
  };
  // x [N, d_in] and base [N, d_out] contiguous, N at least 1.
  Output forward(const Dropped& x, const at::Tensor& base) const;

  struct Gradients {
    at::Tensor down, down_bias, up, up_bias;  // of those that are defined; contiguous, in float32 or x's dtype
    at::Tensor x;                             // [N, d_in], where it is wanted
  };

  // From dy [N, d_out], contiguous; `residual` [N, d_in], where it is defined, is added to the gradient of x.
  Gradients backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& z, const at::Tensor& residual,
                     bool wants_x) const;
};

}  // namespace veneer
