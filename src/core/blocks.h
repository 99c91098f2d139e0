// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products with matrices made of small dense ones. All differentiable.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "veneer/matrix.h"

namespace veneer {

// Block-diagonal matrices of k blocks w [k, q, p]: the matrix [k q, k p], and x [N, k, p] -> [N, k, q].
at::Tensor block_diagonal(const at::Tensor& w);
at::Tensor block_product(const at::Tensor& x, const at::Tensor& w);
// Its gradients from that of its output: of x, undefined unless wanted, and of w.
std::vector<at::Tensor> block_pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& w, bool wants_x);

// Families of Kronecker products F_1 (x) ... (x) F_K. Prepared are the factors [o_k, i_k]; products apply one after
// another, from the end that needs fewer operations, each to its own dimension of the rows seen as [N, i_1, ..., i_K].
class KroneckerProduct : public Matrix {
 public:
  using Matrix::Matrix;

  at::Tensor dense(const Params& params) const final;
  Form form() const final { return Form::other; }
  at::Tensor product(const at::Tensor& x, at::TensorList factors) const final;
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList factors,
                                   bool wants_x) const final;
};

// x (B A)^T for factors a [r, d_in], b [d_out, r]: x [N, d_in] -> [N, d_out] through h [N, r], in x's dtype.
at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b);

}  // namespace veneer
