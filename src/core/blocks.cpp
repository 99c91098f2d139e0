// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/blocks.h"

#include <ATen/ATen.h>

#include "veneer/numeric.h"

namespace veneer {

at::Tensor block_diagonal(const at::Tensor& w) {
  const int64_t k = w.size(0);
  const at::Tensor spread = w.unsqueeze(2) * at::eye(k, w.options()).view({k, 1, k, 1});  // [k, q, k, p]
  return spread.flatten(2, 3).flatten(0, 1);
}

at::Tensor block_product(const at::Tensor& x, const at::Tensor& w) {
  return at::bmm(x.transpose(0, 1), as(w, x).transpose(1, 2)).transpose(0, 1);
}

at::Tensor kronecker(at::TensorList factors) {
  at::Tensor m = factors[0];
  for (const at::Tensor& factor : factors.slice(1)) m = at::kron(m, factor);
  return m;
}

at::Tensor kronecker_product(const at::Tensor& x, at::TensorList factors) {
  // Multiplications of a row when factors are applied from the front, and from the back.
  double front = 0.0, back = 0.0;
  for (const bool forwards : {true, false}) {
    double size = 1.0;
    for (const at::Tensor& factor : factors) size *= static_cast<double>(factor.size(1));
    for (size_t i = 0; i < factors.size(); ++i) {
      const at::Tensor& factor = factors[forwards ? i : factors.size() - 1 - i];
      (forwards ? front : back) += size * static_cast<double>(factor.size(0));
      size = size / static_cast<double>(factor.size(1)) * static_cast<double>(factor.size(0));
    }
  }
  // In float32 at least: between the factors is no place to round, and the products are small.
  at::Tensor y = wide(x);
  for (size_t i = 0; i < factors.size(); ++i) {
    // The index that is contracted moves from one end, and its result joins at the other: in the end all are in order.
    if (front < back) {
      const at::Tensor factor = as(factors[i], y);
      y = at::matmul(y.unflatten(1, {factor.size(1), -1}).transpose(1, 2), factor.t()).flatten(1, 2);
    } else {
      const at::Tensor factor = as(factors[factors.size() - 1 - i], y);
      y = at::matmul(y.unflatten(1, {-1, factor.size(1)}), factor.t()).transpose(1, 2).flatten(1, 2);
    }
  }
  return as(y, x);
}

at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor h = at::linear(x, as(a, x));
  return at::linear(h, as(b, h));
}

}  // namespace veneer
