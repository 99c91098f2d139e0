// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/matrix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>

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

void by_rows(const at::Tensor& x, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  if (x.is_meta()) return;
  const int64_t n = x.size(0);
  if (!x.is_cpu()) return f(0, n, 0);
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

std::vector<at::Tensor> Matrix::fused_add(const at::Tensor&, const Dropped&, const Params&, double) const {
  TORCH_INTERNAL_ASSERT(false, "a matrix without a fused path");
}

std::vector<at::Tensor> Matrix::fused_gradients(const at::Tensor&, const at::Tensor&, const Dropped&, const Params&,
                                                const std::vector<at::Tensor>&, double) const {
  TORCH_INTERNAL_ASSERT(false, "a matrix without a fused path");
}

at::Tensor Matrix::apply(const at::Tensor& x, const Params& params) const {
  return at::linear(x, as(dense(params), x));
}

at::Tensor Matrix::accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                              double scale) const {
  const at::Tensor update = as(apply(x, params), y);
  return owned ? y.add_(update, scale) : y.add(update, scale);
}

at::Tensor Matrix::row_norms(const at::Tensor& weight, const Params& params, double scale) const {
  return at::linalg_vector_norm(wide(weight).add(as(dense(params), wide(weight)), scale), 2, at::IntArrayRef{1});
}

}  // namespace veneer
