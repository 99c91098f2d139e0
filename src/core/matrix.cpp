// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/matrix.h"

#include <ATen/ATen.h>

#include "core/blocks.h"
#include "core/products.h"
#include "core/recording.h"
#include "core/row_norms.h"
#include "veneer/numeric.h"

namespace veneer {

at::Tensor Matrix::product(const at::Tensor& x, at::TensorList prepared) const {
  return form() == Form::factors ? low_rank_product(x, prepared[0], prepared[1]) : at::linear(x, as(prepared[0], x));
}

std::vector<at::Tensor> Matrix::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                         bool wants_x) const {
  const Recording recording;
  std::vector<at::Tensor> inputs{x.detach().requires_grad_(wants_x)};
  for (const auto& tensor : prepared) inputs.push_back(tensor.detach().requires_grad_(tensor.requires_grad()));
  return gradients_of({product(inputs[0], at::TensorList(inputs).slice(1))}, inputs, {dy});
}

at::Tensor Matrix::apply(const at::Tensor& x, const Params& params) const {
  // Some libraries refuse products and transforms of no rows.
  if (TORCH_GUARD_SIZE_OBLIVIOUS(x.sym_size(0).sym_eq(0))) return at::linear(x, as(dense(params), x));
  return product(x, prepare(params));
}

at::Tensor Matrix::accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                              double scale) const {
  if (form() == Form::factors) {
    // One product adds into the base's output: no separate product, scaling or sum is written.
    const auto factors = prepare(params);
    const at::Tensor h = as(at::linear(x, as(factors[0], x)), y), b = as(factors[1], y).t();
    return owned ? y.addmm_(h, b, 1.0, scale) : y.addmm(h, b, 1.0, scale);
  }
  const at::Tensor update = as(apply(x, params), y);
  return owned ? y.add_(update, scale) : y.add(update, scale);
}

at::Tensor Matrix::merged(const at::Tensor& weight, const Params& params, double scale) const {
  if (form() != Form::factors) return weight.add(as(build(params), weight), scale);
  const auto factors = prepare(params);
  const at::Tensor a = as(factors[0], weight), b = as(factors[1], weight).contiguous();
  return expand(b, a, scale, {}, {}, weight.contiguous());  // W is the base, and B's rows are few numbers each
}

at::Tensor Matrix::row_norms(const at::Tensor& weight, const Params& params, double scale) const {
  const bool is_product = form() == Form::factors;
  const auto factors = is_product ? prepare(params) : std::vector<at::Tensor>();
  if (is_product && cpu::takes_row_norms(weight, factors[0], factors[1])) {
    return cpu::row_norms(weight, factors[0], factors[1], scale);
  }
  const at::Tensor w = wide(weight);
  if (!is_product) return at::linalg_vector_norm(w.add(as(dense(params), w), scale), 2, at::IntArrayRef{1});
  // ||W + sBA||^2 row by row without the d_out x d_in product: ||W||^2 + 2s <W A^T, B> + s^2 <B A A^T, B>.
  const at::Tensor a = as(factors[0], w), b = as(factors[1], w);
  const at::Tensor inner = at::addmm(at::mm(w, a.t()), b, at::mm(a, a.t()), /*beta=*/2.0, /*alpha=*/scale);
  const at::Tensor base = at::linalg_vector_norm(w, 2, at::IntArrayRef{1}).square();
  return base.add((inner * b).sum(1), scale).clamp_min(0.0).sqrt();
}

}  // namespace veneer
