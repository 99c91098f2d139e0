// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/matrix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>

#include "core/recording.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"

namespace veneer {

at::Tensor Dropped::all() const { return seeded_dropout(x, seed, p); }

at::Tensor Dropped::part(int64_t begin, int64_t end) const {
  at::Tensor rows = x.narrow(0, begin, end - begin);
  if (!seed.defined()) return rows;
  at::Tensor dropped = at::empty_like(rows);
  seeded_dropout_part(dropped, rows, seed, p, begin * x.size(1), /*accumulate=*/false);
  return dropped;
}

void Dropped::add_part(const at::Tensor& dx, const at::Tensor& g, int64_t begin) const {
  const at::Tensor rows = dx.narrow(0, begin, g.size(0));
  if (seed.defined()) {
    seeded_dropout_part(rows, g, seed, p, begin * x.size(1), /*accumulate=*/true);
  } else {
    rows.add_(g);
  }
}

void by_rows(const at::Tensor& x, bool whole, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  if (x.is_meta()) return;
  const int64_t n = x.size(0);
  if (n == 0) return;
  if (whole || !x.is_cpu()) return f(0, n, 0);
  constexpr int64_t bytes = int64_t{256} << 10, fewest = 32;
  const int64_t part = std::max(fewest, bytes / std::max<int64_t>(1, x.size(1) * x.element_size()));
  const int64_t strip = std::max(part, (n + row_strips - 1) / row_strips);
  const at::ThreadLocalState state;  // workers have none of their own: no gradients are recorded here
  at::parallel_for(0, (n + strip - 1) / strip, 1, [&](int64_t first, int64_t last) {
    const at::ThreadLocalStateGuard guard(state);
    for (int64_t i = first; i < last; ++i) {
      const int64_t end = std::min(n, (i + 1) * strip);
      for (int64_t begin = i * strip; begin < end; begin += part) f(begin, std::min(end, begin + part), i);
    }
  });
}

at::Tensor Matrix::product(const at::Tensor& x, at::TensorList prepared) const {
  return at::linear(x, as(prepared[0], x));
}

at::Tensor Matrix::apply(const at::Tensor& x, const Params& params) const {
  // Some libraries refuse products and transforms of no rows.
  if (TORCH_GUARD_SIZE_OBLIVIOUS(x.sym_size(0).sym_eq(0))) return at::linear(x, as(dense(params), x));
  return product(x, prepare(params));
}

at::Tensor Matrix::accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                              double scale) const {
  const at::Tensor update = as(apply(x, params), y);
  return owned ? y.add_(update, scale) : y.add(update, scale);
}

at::Tensor Matrix::row_norms(const at::Tensor& weight, const Params& params, double scale) const {
  return at::linalg_vector_norm(wide(weight).add(as(dense(params), wide(weight)), scale), 2, at::IntArrayRef{1});
}

namespace {

// Sums of gradients are held once for each strip, which pays where they are small beside x; else products are large too,
// and ATen's own threads serve them.
bool large(const std::vector<at::Tensor>& prepared, const at::Tensor& x) {
  int64_t numbers = 0;
  for (const auto& tensor : prepared) numbers += tensor.numel();
  return numbers * row_strips > x.numel();
}

}  // namespace

std::vector<at::Tensor> Matrix::fused_add(const at::Tensor& y, const Dropped& x, const Params& params,
                                          double scale) const {
  if (y.is_meta()) return {};
  const std::vector<at::Tensor> prepared = prepare(params);
  by_rows(x.x, large(prepared, x.x), [&](int64_t begin, int64_t end, int64_t) {
    const at::Tensor part = y.narrow(0, begin, end - begin);
    part.add_(as(product(x.part(begin, end), prepared), part), scale);
  });
  return {};
}

std::vector<at::Tensor> Matrix::fused_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x,
                                                const Params& params, const std::vector<at::Tensor>& /*kept*/,
                                                double scale) const {
  std::vector<at::Tensor> gradients(params.tensors().size());
  std::vector<at::Tensor> leaves(gradients.size());
  std::vector<size_t> trained;
  for (size_t i = 0; i < leaves.size(); ++i) {
    leaves[i] = params.tensors()[i].detach();
    if (!params.specs()[i].trainable) continue;
    if (dy.is_meta()) {
      gradients[i] = at::empty_like(leaves[i]);
      continue;
    }
    leaves[i].requires_grad_();
    trained.push_back(i);
  }
  if (dy.is_meta()) return gradients;

  const Recording recording;
  const std::vector<at::Tensor> prepared = prepare(params.with(leaves));
  const bool whole = large(prepared, x.x);
  std::vector<at::Tensor> sums;
  for (const auto& tensor : prepared) {
    std::vector<int64_t> sizes = tensor.sizes().vec();
    sizes.insert(sizes.begin(), whole ? 1 : row_strips);
    const auto options = tensor.options().dtype(wide_type(tensor.scalar_type()));
    sums.push_back(tensor.requires_grad() ? at::zeros(sizes, options) : at::Tensor());
  }
  by_rows(x.x, whole, [&](int64_t begin, int64_t end, int64_t strip) {
    std::vector<at::Tensor> inputs;
    for (const auto& tensor : prepared) inputs.push_back(tensor.detach().requires_grad_(tensor.requires_grad()));
    const at::Tensor part = x.part(begin, end).detach().requires_grad_(dx.defined());
    const at::Tensor out = product(part, inputs);
    inputs.push_back(part);
    const auto found = gradients_of({out}, inputs, {as(dy.narrow(0, begin, end - begin) * scale, out)});
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < sums.size(); ++i) {
      if (found[i].defined()) sums[i].select(0, strip).add_(found[i]);
    }
    if (dx.defined() && found.back().defined()) x.add_part(dx, as(found.back(), dx).contiguous(), begin);
  });
  std::vector<at::Tensor> totals, inputs;
  for (size_t i = 0; i < sums.size(); ++i) {
    totals.push_back(sums[i].defined() ? as(sums[i].sum(0), prepared[i]) : at::Tensor());
  }
  for (const size_t i : trained) inputs.push_back(leaves[i]);
  const auto found = gradients_of(prepared, inputs, totals);
  for (size_t i = 0; i < trained.size(); ++i) {
    gradients[trained[i]] = found[i].defined() ? found[i] : at::zeros_like(inputs[i]);
  }
  return gradients;
}

}  // namespace veneer
