// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Columns scaled in one pass, for fused paths: without gradients. y and dy [N, d] contiguous, g [d] in float32 at
// least.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// y * g + (1 - g) * bias in y's dtype: what lies above the bias is scaled, and g = 1 gives y bit for bit. bias [d] may
// be undefined.
at::Tensor rescaled(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias);

// The gradient of g from dy, that of the scaled y: [d], sums over rows of dy * (y - bias), in float32 at least. `like`
// [d] tells d where sizes are symbolic.
at::Tensor rescaled_pullback(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& like);

}  // namespace veneer
