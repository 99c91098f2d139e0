// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Krylov matrices K(A, v) = [v, A v, A^2 v, ...] [R, n, n] of vectors v [R, n], differentiable.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// A shifts down by one and drops what falls out: lower triangular Toeplitz.
at::Tensor shifts(const at::Tensor& v);
// A has the sub-diagonal a [n - 1], and is zero elsewhere.
at::Tensor scaled_shifts(const at::Tensor& a, const at::Tensor& v);
// A has the diagonal d [n].
at::Tensor powers(const at::Tensor& d, const at::Tensor& v);

}  // namespace veneer
