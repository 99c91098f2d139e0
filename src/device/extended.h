// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A frozen layer's product with a low-rank update in the same sum, or with a gain, or both
// (kernels/cuda/extended_product.h). Without gradients. Without an update, h, p and their like are undefined, and ranks
// 0.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/dropped.h"
#include "core/gain.h"

namespace veneer::device {

// Whether there is a kernel for x W^T, and dy W, with an update of that rank that is added in the same sum: on a GPU of
// compute capability 9.0, for contiguous 16-bit matrices with sizes that are multiples of 8. Factors of a rank that is
// not are given zeros, by one more launch each way.
bool takes_extended(const at::Tensor& x, const at::Tensor& weight, int64_t rank);

// x weight^T + h p^T + bias: x [N, d_in], weight [d_out, d_in], h [N, r], p [d_out, r], bias [d_out] or undefined.
at::Tensor extended(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                    const at::Tensor& bias);
struct Gained {
  at::Tensor y, plain;  // [N, d_out]
};
// Likewise `plain`, and y: all of it is scaled by gain [d_out], in float32, or what of it lies above the bias.
Gained extended_gained(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                       const at::Tensor& bias, const at::Tensor& gain, bool gains_bias);
// dy weight + dropout(h p), with the mask that `mask` has (its x is not read), where it is taken: dy [N, d_out], weight
// [d_out, d_in], h [N, r], p [r, d_in].
bool takes_extended_mask(const at::Tensor& weight, const Dropped& mask);
at::Tensor extended_turned(const at::Tensor& dy, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                           const Dropped& mask);

// What a layer with an update of two factors, a [r, d_in] the one that x is multiplied with, has for its gradients.
struct ExtendedLayer {
  const at::Tensor& weight;  // [d_out, d_in]
  const Dropped& x;          // [N, d_in]; undefined without an update
  const at::Tensor& a;
  bool rounded;  // whether the gradient of a is wanted in dy's dtype, not in float32
  const Gain& gain;
  const at::Tensor& bias;
};
struct ExtendedGradients {
  at::Tensor x;     // [N, d_in] = dy (gain * weight) + dropout(dh a)
  at::Tensor a;     // [r, d_in] = dh^T dropout(x); where there is an update
  at::Tensor gain;  // [d_out], Gain::gradient; where there is a gain
};
// Whether all of them are taken in one product (kernels/cuda/extended_product.h), where takes_extended holds of dy.
bool takes_extended_gradients(const at::Tensor& dy, const at::Tensor& weight, const Dropped& x, int64_t rank);
// dy [N, d_out]; dh [N, r] = dy (gain * b), scaled as the update is.
ExtendedGradients extended_gradients(const at::Tensor& dy, const at::Tensor& dh, const ExtendedLayer& layer);

}  // namespace veneer::device
