// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/dropped.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>

#include "veneer/dropout.h"

namespace veneer {

at::Tensor Dropped::all() const { return seeded_dropout(x, seed, p); }

at::Tensor Dropped::part(int64_t begin, int64_t end) const {
  at::Tensor rows = x.narrow(0, begin, end - begin);
  if (!seed.defined()) return rows;
  at::Tensor dropped = at::empty_like(rows);
  seeded_dropout_part(dropped, rows, seed, p, begin * x.size(1));
  return dropped;
}

void Dropped::put_part(const at::Tensor& dx, const at::Tensor& g, int64_t begin) const {
  seeded_dropout_part(dx.narrow(0, begin, g.size(0)), g, seed, p, begin * dx.size(1));
}

at::Tensor Dropped::masked(const at::Tensor& g) const { return seeded_dropout(g, seed, p); }

void by_rows(const at::Tensor& x, bool whole, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  if (x.is_meta()) return;
  const int64_t n = x.size(0);
  if (n == 0) return;
  if (whole || !x.is_cpu()) return f(0, n, 0);
  constexpr int64_t bytes = int64_t{512} << 10, fewest = 32;
  const int64_t fit = std::max(fewest, bytes / std::max<int64_t>(1, x.size(1) * x.element_size()));
  const int64_t strip = std::max(fit, (n + row_strips - 1) / row_strips);
  const int64_t parts = (strip + fit - 1) / fit, part = (strip + parts - 1) / parts;
  const at::ThreadLocalState state;  // workers have none of their own: no gradients are recorded here
  at::parallel_for(0, (n + strip - 1) / strip, 1, [&](int64_t first, int64_t last) {
    const at::ThreadLocalStateGuard guard(state);
    for (int64_t i = first; i < last; ++i) {
      const int64_t end = std::min(n, (i + 1) * strip);
      for (int64_t begin = i * strip; begin < end; begin += part) f(begin, std::min(end, begin + part), i);
    }
  });
}

}  // namespace veneer
