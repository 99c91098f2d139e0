// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A frozen layer whose output is rescaled column by column, with its gradients written out: (IA)3 at keys and values.
// On a GPU both are the layer's own products, where it has them (device/extended.h). Without gradients.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// l * (x W^T + b) in x's dtype, which is W's and b's.
struct ScaledLayer {
  at::Tensor weight;  // [d_out, d_in]
  at::Tensor bias;    // [d_out], or undefined
  at::Tensor l;       // [d_out], in float32 at least

  // Whether rows such as x [N, d_in], or dy, go through a product that does both.
  bool in_product(const at::Tensor& rows) const;

  struct Output {
    at::Tensor y;      // [N, d_out]
    at::Tensor plain;  // [N, d_out], the layer's own, which l's gradient wants
  };
  // x [N, d_in], contiguous.
  Output forward(const at::Tensor& x) const;

  struct Gradients {
    at::Tensor x;  // [N, d_in], where it is wanted
    at::Tensor l;  // [d_out], in float32 at least, or dy's dtype if that will do
  };
  // From dy [N, d_out] and `plain` of forward, both contiguous.
  Gradients backward(const at::Tensor& dy, const at::Tensor& plain, bool wants_x, bool rounded) const;
};

}  // namespace veneer
