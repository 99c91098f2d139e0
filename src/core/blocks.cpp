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

// One factor's turn: rows [N, ...] are seen as [*, size, right], `right` the product of the dimensions after its own.
struct Step {
  size_t place;
  at::Tensor factor;  // [o, i]
  int64_t right = 1;

  at::Tensor of(const at::Tensor& row, int64_t size) const {
    return right == 1 ? row.reshape({-1, size}) : row.reshape({-1, size, right});
  }
  // The factor applied to t = of(row, i), [*, o, right].
  at::Tensor product(const at::Tensor& t) const {
    return right == 1 ? at::mm(t, factor.t()) : at::bmm(each(factor, t), t);
  }
  at::Tensor transposed(const at::Tensor& t) const {
    return right == 1 ? at::mm(t, factor) : at::bmm(each(factor.t(), t), t);
  }
  // m for each matrix of t. (matmul would choose between two products, rounded differently, by what needs a gradient.)
  static at::Tensor each(const at::Tensor& m, const at::Tensor& t) {
    return m.unsqueeze(0).expand_symint({t.sym_size(0), m.size(0), m.size(1)});
  }
  // The factor's, summed over rows, from what it was applied to and the gradient of what it gave.
  at::Tensor gradient(const at::Tensor& in, const at::Tensor& out) const {
    return right == 1 ? at::mm(out.t(), in) : at::bmm(out, in.transpose(1, 2)).sum(0);
  }
};

// In the order they are applied, in `like`'s dtype.
std::vector<Step> steps(at::TensorList factors, const at::Tensor& like) {
  const bool front = from_front(factors);
  const size_t count = factors.size();
  std::vector<Step> found;
  for (size_t i = 0; i < count; ++i) {
    const size_t k = front ? i : count - 1 - i;
    Step step{k, as(factors[k], like)};
    for (size_t j = k + 1; j < count; ++j) step.right *= factors[j].size(front ? 1 : 0);
    found.push_back(step);
  }
  return found;
}

}  // namespace

at::Tensor KroneckerProduct::dense(const Params& params) const {
  const auto factors = prepare(params);
  at::Tensor m = factors[0];
  for (size_t k = 1; k < factors.size(); ++k) m = at::kron(m.contiguous(), factors[k].contiguous());  // it views both
  return m;
}

// In float32 at least: between the factors is no place to round, and the products are small.
at::Tensor KroneckerProduct::product(const at::Tensor& x, at::TensorList factors) const {
  at::Tensor y = wide(x);
  for (const Step& step : steps(factors, y)) y = step.product(step.of(y, step.factor.size(1)));
  return as(y.reshape({-1, d_out()}), x);
}

std::vector<at::Tensor> KroneckerProduct::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList factors,
                                                   bool wants_x) const {
  at::Tensor y = wide(x), g = wide(dy);
  const std::vector<Step> all = steps(factors, y);
  std::vector<at::Tensor> inputs, gradients(1 + factors.size());
  for (const Step& step : all) {
    inputs.push_back(step.of(y, step.factor.size(1)));
    if (inputs.size() < all.size()) y = step.product(inputs.back());
  }
  for (size_t i = all.size(); i-- > 0;) {
    const at::Tensor out = all[i].of(g, all[i].factor.size(0));
    gradients[1 + all[i].place] = all[i].gradient(inputs[i], out);
    if (i > 0 || wants_x) g = all[i].transposed(out);
  }
  if (wants_x) gradients[0] = g.reshape({-1, d_in()});
  return gradients;
}

at::Tensor low_rank_product(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor h = at::linear(x, as(a, x));
  return at::linear(h, as(b, h));
}

}  // namespace veneer
