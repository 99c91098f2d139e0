// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/thin.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/thin_tiles.h"
#include "kernels/cpu/vector.h"

namespace veneer::cpu {
namespace {

// Rows of a tile: few enough for the second-level cache, where numbers of 16 bits that stay so need half the room; more
// of them where sums of a higher rank are read and written for each tile.
int64_t tile_rows(const at::Tensor& x, int64_t r) {
  const int64_t few = takes_pairs(x) ? 32 << 10 : 16 << 10;
  return tile_height(r <= 16 ? few : 48 << 10, x.size(1));
}

// What is computed of the tiles of x: h = scale * dropout(x) factor^T, or sums = left^T dropout(x), or both; the others
// are undefined.
struct Pass {
  const Dropped& x;
  at::Tensor factor;  // [r, d]
  double scale;
  at::Tensor h;     // [N, r]
  at::Tensor left;  // [N, r]
  at::Tensor sums;  // [strips, r, d]

  template <class T, class How>
  void operator()() const {
    const int64_t d = x.x.size(1), r = h.defined() ? h.size(1) : left.size(1);
    const at::Tensor turned = h.defined() ? How::turned(factor) : at::Tensor();
    const at::Tensor weights = sums.defined() ? How::left(left) : at::Tensor();
    by_tiles(x.x, tile_rows(x.x, r), [&](const Tile& tile) {
      const auto* const rows = How::rows(x, tile.begin, tile.rows);
      if (h.defined()) reduce<T, How>(rows, turned, tile);
      if (sums.defined()) {
        const int64_t m = left.size(1);
        How::sum(weights, tile.begin, rows, tile.rows, m, d, out<float>(sums) + tile.strip * m * d,
                 /*accumulate=*/!tile.first);
      }
    });
  }

 private:
  template <class T, class How>
  void reduce(const auto* rows, const at::Tensor& turned, const Tile& tile) const {
    const int64_t r = h.size(1), width = padded(r), n = tile.rows;
    const auto factor = static_cast<float>(scale);
    float* const to = room<float>(n * width, 1);
    How::reduce(rows, n, x.x.size(1), turned, width, to);
    if (factor != 1.0F) std::transform(to, to + n * width, to, [factor](float t) { return factor * t; });
    for (int64_t i = 0; i < n; ++i) kernels::cpu::narrow(to + i * width, out<T>(h) + (tile.begin + i) * r, r);
  }
};

at::Tensor empty_sums(const Dropped& x, const at::Tensor& left) {
  return at::empty({strips_of(x.x), left.size(1), x.x.size(1)}, x.x.options().dtype(at::kFloat));
}

// scale * the sum of all strips' [r, d], or its transpose.
at::Tensor total(const at::Tensor& sums, const Dropped& x, double scale, bool rounded, bool turned = false) {
  const at::Tensor all = over_strips(sums), sum = as_float(turned ? all.t() : all, scale);
  return rounded ? sum.to(x.x.scalar_type()) : sum;
}

}  // namespace

bool takes_thin(const at::Tensor& x, int64_t rank) { return rank > 0 && takes_rows(x); }

bool takes_pairs(const at::Tensor& x) { return Paired::takes(x); }

at::Tensor reduced(const Dropped& x, const at::Tensor& factor, double scale) {
  at::Tensor h = at::empty({x.x.size(0), factor.size(0)}, x.x.options());
  for_tiles_of(x.x, Pass{x, factor, scale, h, {}, {}});
  return h;
}

at::Tensor summed(const Dropped& x, const at::Tensor& left, double scale, bool rounded) {
  const at::Tensor sums = empty_sums(x, left);
  for_tiles_of(x.x, Pass{x, {}, 1.0, {}, left, sums});
  return total(sums, x, scale, rounded);
}

std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                                     double scale, double sum_scale, bool rounded) {
  const at::Tensor h = at::empty({x.x.size(0), factor.size(0)}, x.x.options()), sums = empty_sums(x, left);
  for_tiles_of(x.x, Pass{x, factor, scale, h, left, sums});
  return {h, total(sums, x, sum_scale, rounded, /*turned=*/true)};
}

void expand_into(const at::Tensor& y, const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                 const at::Tensor& bias, const at::Tensor& base) {
  const int64_t d = y.size(1);
  for_tiles_of(y, [&]<class T, class How>() {
    const typename How::Expansion expand(h, factor, scale, bias);
    by_tiles(y, tile_rows(y, h.size(1)), [&](const Tile& tile) {
      const int64_t first = tile.begin * d, numbers = tile.rows * d;
      T* const to = out<T>(y) + first;
      T* const whole = mask.seed.defined() ? room<T>(numbers, 1) : to;
      expand(tile.begin, tile.rows, base.defined() ? in<T>(base) + first : nullptr, whole);
      if (mask.seed.defined()) drop(whole, to, numbers, mask, first);
    });
  });
}

}  // namespace veneer::cpu
