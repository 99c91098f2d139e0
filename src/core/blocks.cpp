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

std::vector<at::Tensor> block_pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& w, bool wants_x) {
  at::Tensor dx;
  if (wants_x) dx = block_product(dy, w.transpose(1, 2));
  return {dx, at::bmm(dy.permute({1, 2, 0}), x.transpose(0, 1))};  // [k, q, N] [k, N, p]
}

namespace {

// Whether the first factor is to be applied first, which is when that needs fewer multiplications.
bool from_front(at::TensorList factors) {
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
  return front < back;
}

// The index that a factor contracts is taken from one end of a row [N, ...] to the last dimension, [N, rest, i], and
// what comes of it, [N, rest, o], is put at the other end: after all factors the indices are in order again.
at::Tensor taken(const at::Tensor& row, int64_t size, bool front) {
  return front ? row.unflatten(1, {size, -1}).transpose(1, 2) : row.unflatten(1, {-1, size});
}
at::Tensor put(const at::Tensor& result, bool front) {
  return front ? result.flatten(1, 2) : result.transpose(1, 2).flatten(1, 2);
}

}  // namespace

at::Tensor KroneckerProduct::dense(const Params& params) const {
  const auto factors = prepare(params);
  at::Tensor m = factors[0];
  for (size_t k = 1; k < factors.size(); ++k) m = at::kron(m, factors[k]);
  return m;
}

// In float32 at least: between the factors is no place to round, and the products are small.
at::Tensor KroneckerProduct::product(const at::Tensor& x, at::TensorList factors) const {
  const bool front = from_front(factors);
  at::Tensor y = wide(x);
  for (size_t i = 0; i < factors.size(); ++i) {
    const at::Tensor factor = as(factors[front ? i : factors.size() - 1 - i], y);
    y = put(at::matmul(taken(y, factor.size(1), front), factor.t()), front);
  }
  return as(y, x);
}

std::vector<at::Tensor> KroneckerProduct::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList factors,
                                                   bool wants_x) const {
  const bool front = from_front(factors);
  const auto place = [&](size_t i) { return front ? i : factors.size() - 1 - i; };
  std::vector<at::Tensor> inputs;  // of each step, [N, rest, i]
  at::Tensor y = wide(x);
  for (size_t i = 0; i < factors.size(); ++i) {
    const at::Tensor factor = as(factors[place(i)], y);
    inputs.push_back(taken(y, factor.size(1), front));
    if (i + 1 < factors.size()) y = put(at::matmul(inputs.back(), factor.t()), front);
  }
  std::vector<at::Tensor> gradients(1 + factors.size());
  at::Tensor g = wide(dy);
  for (size_t i = factors.size(); i-- > 0;) {
    const at::Tensor factor = as(factors[place(i)], g);
    const at::Tensor out = taken(g, factor.size(0), !front);  // [N, rest, o]
    gradients[1 + place(i)] = at::mm(out.reshape({-1, factor.size(0)}).t(), inputs[i].reshape({-1, factor.size(1)}));
    if (i > 0 || wants_x) g = put(at::matmul(out, factor), !front);
  }
  if (wants_x) gradients[0] = g;
  return gradients;
}

at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor h = at::linear(x, as(a, x));
  return at::linear(h, as(b, h));
}

}  // namespace veneer
