// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A trained vector on the last dimension, as one op with its own gradient.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// t * l in t's dtype, t [*, d] and l's d numbers, in whatever shape, of floating-point types, computed in the wider one
// of both, and differentiable any number of times. Kept for backward are t, where l is trained, and l. One pass over t
// each way, but where `takes_op` says no.
at::Tensor scaled_columns(const at::Tensor& t, const at::Tensor& l);

// What other ops with such a vector share: whether l is wider than what t is computed in, which they leave to the
// definition; and l as [d], in float32 at least.
bool is_wider(const at::Tensor& l, const at::Tensor& t);
at::Tensor column_of(const at::Tensor& l);

}  // namespace veneer
