// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/dropped.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>
#include <bit>

#include "device/plain.h"
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

namespace {

// A power of two of strips, so that threads have equal numbers of them; or somewhat fewer, since each but the last is a
// multiple of the rows of a tile.
struct Strips {
  int64_t strip, part, count;  // rows of both

  explicit Strips(const at::Tensor& x) {
    constexpr int64_t bytes = int64_t{512} << 10, tile = 16, fewest = 2 * tile;
    const int64_t n = x.size(0), fit = std::max(fewest, bytes / std::max<int64_t>(1, x.size(1) * x.element_size()));
    const auto some = std::bit_ceil(static_cast<uint64_t>(shared(n, fit)));
    strip = rounded_up(shared(n, std::min(static_cast<int64_t>(some), row_strips)), tile);
    part = rounded_up(shared(strip, shared(strip, fit)), tile);
    count = shared(n, strip);
  }

 private:
  static int64_t shared(int64_t n, int64_t parts) { return parts == 0 ? 0 : (n + parts - 1) / parts; }
  static int64_t rounded_up(int64_t n, int64_t unit) { return shared(n, unit) * unit; }
};

}  // namespace

int64_t strips_of(const at::Tensor& x) { return x.is_meta() ? row_strips : Strips(x).count; }

int64_t strip_rows(const at::Tensor& x) { return Strips(x).strip; }

at::Tensor over_strips(const at::Tensor& sums) { return sums.size(0) == 1 ? sums.select(0, 0) : sums.sum(0); }

void by_rows(const at::Tensor& x, bool whole, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  if (x.is_meta()) return;
  const int64_t n = x.size(0);
  if (n == 0) return;
  if (whole || !device::on_cpu(x)) return f(0, n, 0);
  const Strips strips(x);
  const auto run = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t end = std::min(n, (i + 1) * strips.strip);
      for (int64_t begin = i * strips.strip; begin < end; begin += strips.part) {
        f(begin, std::min(end, begin + strips.part), i);
      }
    }
  };
  // Where there is no other thread none is told of the state of this one, which takes as long as a small product.
  if (strips.count == 1 || at::get_num_threads() == 1 || at::in_parallel_region()) return run(0, strips.count);
  const at::ThreadLocalState state;  // workers have none of their own: no gradients are recorded here
  at::parallel_for(0, strips.count, 1, [&](int64_t first, int64_t last) {
    const at::ThreadLocalStateGuard guard(state);
    run(first, last);
  });
}

}  // namespace veneer
