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

// y + bias, in place; bias [d] in y's dtype.
void add_to_columns(const at::Tensor& y, const at::Tensor& bias);

// The sums [d] over the rows of t [N, d], in float32 at least.
at::Tensor sum_of_rows(const at::Tensor& t);

// t [d, columns], row i scaled by gain[i], in t's dtype; t itself where there is no gain.
at::Tensor scaled_rows(const at::Tensor& t, const at::Tensor& gain);
// The same of t that may be overwritten.
at::Tensor gained(const at::Tensor& t, const at::Tensor& gain);

struct Rescaled {
  at::Tensor y;     // [N, d]
  at::Tensor gain;  // [d]
};

// The gradients from dy, that of the scaled y: of y, dy * g, where it is wanted; and of g, the sums over rows of dy *
// (y - bias), in float32 at least.
Rescaled rescaled_pullback(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                           bool wants_y);

}  // namespace veneer
