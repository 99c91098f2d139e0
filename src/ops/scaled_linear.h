// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A linear layer and a trained vector on its output, as one op with its own gradient.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// l * (x weight^T + bias) in x's dtype: x [*, d_in], weight [d_out, d_in], bias [d_out] or undefined, and l's d_out
// numbers, in whatever shape; differentiable any number of times. Kept for backward are the layer's own output [*,
// d_out], where l is trained, the weight and l, not x. Composed of the layer and of scaled_columns where the layer is
// trained, or of several dtypes, or where `takes_op` says no.
at::Tensor scaled_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& l);

}  // namespace veneer
