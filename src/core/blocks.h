// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products with matrices made of small dense ones. All differentiable.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace veneer {

// Block-diagonal matrices of k blocks w [k, q, p]: the matrix [k q, k p], and x [N, k, p] -> [N, k, q].
at::Tensor block_diagonal(const at::Tensor& w);
at::Tensor block_product(const at::Tensor& x, const at::Tensor& w);
// Its gradients from that of its output: of x, undefined unless wanted, and of w.
std::vector<at::Tensor> block_pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& w, bool wants_x);

// Kronecker products F_1 (x) ... (x) F_K of factors [o_k, i_k]: the matrix, and x [N, i_1 ... i_K] -> [N, o_1 ... o_K],
// one factor after another, from the end that needs fewer operations.
at::Tensor kronecker(at::TensorList factors);
at::Tensor kronecker_product(const at::Tensor& x, at::TensorList factors);
// Its gradients from that of its output: of x, undefined unless wanted, and of the factors.
std::vector<at::Tensor> kronecker_pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList factors,
                                           bool wants_x);

// x (B A)^T for factors a [r, d_in], b [d_out, r]: x [N, d_in] -> [N, d_out] through h [N, r], in x's dtype.
at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b);

}  // namespace veneer
