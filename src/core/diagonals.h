// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Matrices constant along their diagonals, and those that grow along them by an outer product, as matrices of low
// displacement rank do; added to a base, without gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include "veneer/matrix.h"

namespace veneer {

// The matrices [*, d_out, d_in] with constant diagonals [*, d_out + d_in - 1], from the last row's to the last
// column's. Differentiable.
at::Tensor with_diagonals(const at::Tensor& diagonals, int64_t d_in);

// base + scale * M, M with constant diagonals [d_out + d_in - 1], from the last row's to the last column's; base
// [d_out, d_in], whose dtype the result has.
at::Tensor on_diagonals(const at::Tensor& base, const at::Tensor& diagonals, double scale);

// base + scale * M, of a matrix of low displacement rank, without products of matrices: from its own products and from
// what it grows by along its diagonals, M[i, j] - M[i - 1, j - 1] = (left right)[i, j] for i, j > 0, left [d_out or
// more, k] and right [k, d_in or more] in float32 or float64. In base's dtype, or without a base [d_out, d_in] in
// theirs. Where `grows`.
bool grows(const at::Tensor& like);
at::Tensor grown(const Matrix& matrix, const at::Tensor& left, const at::Tensor& right, at::TensorList prepared,
                 const at::Tensor& base, double scale);

}  // namespace veneer
