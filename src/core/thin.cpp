// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/thin.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/tile_rows.h"
#include "core/tiles.h"
#include "kernels/cpu/thin_product.h"
#include "kernels/cpu/vector.h"

namespace veneer::cpu {
namespace {

using kernels::cpu::lanes;

// Rows of a tile: a multiple of what the product takes at once, and few enough for the second-level cache; more of them
// where sums of a higher rank are read and written for each tile.
int64_t tile_rows(int64_t d, int64_t r) {
  const int64_t numbers = r <= 16 ? 16 << 10 : 48 << 10, most = 64;
  return std::clamp(numbers / d / lanes * lanes, lanes, most);
}

// What is computed of the tiles of x: h = dropout(x) factor^T, or sums += left^T dropout(x), or both.
struct Pass {
  const Dropped& x;
  at::Tensor factor;  // turned and padded, float32
  at::Tensor h;       // [N, r]
  at::Tensor left;    // [N, r], float32
  at::Tensor sums;    // [strips, r, d]

  template <class T>
  void run() const {
    const int64_t d = x.x.size(1), r = h.defined() ? h.size(1) : left.size(1);
    by_tiles(x.x, tile_rows(d, r), [&](const Tile& tile) {
      const auto [begin, n, strip, first] = tile;
      const float* const rows = rows_of<T>(x, begin, n);
      if (h.defined()) reduce<T>(rows, begin, n, d);
      if (sums.defined()) {
        const int64_t m = left.size(1);
        kernels::cpu::thin_product({in<float>(left) + begin * m, 1, m, rows, d, out<float>(sums) + strip * m * d, d, m,
                                    n, d, /*accumulate=*/!first});
      }
    });
  }

 private:
  template <class T>
  void reduce(const float* rows, int64_t begin, int64_t n, int64_t d) const {
    const int64_t r = h.size(1), width = factor.size(1);
    float* const to = room<float>(n * width, 1);
    kernels::cpu::thin_product({rows, d, 1, in<float>(factor), width, to, width, n, d, width, /*accumulate=*/false});
    for (int64_t i = 0; i < n; ++i) kernels::cpu::narrow(to + i * width, out<T>(h) + (begin + i) * r, r);
  }
};

void run(const Pass& pass) {
  for_type(pass.x.x, [&]<class T>(T) { pass.run<T>(); });
}

at::Tensor empty_sums(const Dropped& x, const at::Tensor& left) {
  return at::empty({strips_of(x.x), left.size(1), x.x.size(1)}, x.x.options().dtype(at::kFloat));
}

at::Tensor total(const at::Tensor& sums, const Dropped& x, bool rounded) {
  const at::Tensor sum = sums.sum(0);
  return rounded ? sum.to(x.x.scalar_type()) : sum;
}

}  // namespace

bool takes_thin(const at::Tensor& x, int64_t rank) { return rank > 0 && takes_rows(x); }

at::Tensor reduced(const Dropped& x, const at::Tensor& factor, double scale) {
  at::Tensor h = at::empty({x.x.size(0), factor.size(0)}, x.x.options());
  run({x, turned_and_padded(factor, scale), h, {}, {}});
  return h;
}

at::Tensor summed(const Dropped& x, const at::Tensor& left, double scale, bool rounded) {
  const at::Tensor sums = empty_sums(x, left);
  run({x, {}, {}, as_float(left, scale), sums});
  return total(sums, x, rounded);
}

std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                                     double scale, double sum_scale, bool rounded) {
  const at::Tensor h = at::empty({x.x.size(0), factor.size(0)}, x.x.options()), sums = empty_sums(x, left);
  run({x, turned_and_padded(factor, scale), h, as_float(left, sum_scale), sums});
  return {h, total(sums, x, rounded).t().contiguous()};
}

void expand_into(const at::Tensor& y, const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                 const at::Tensor& bias, const at::Tensor& base) {
  const at::Tensor left = as_float(h), right = as_float(factor, scale);
  const at::Tensor added = bias.defined() ? as_float(bias) : bias;
  const int64_t d = y.size(1), r = left.size(1);
  for_type(y, [&]<class T>(T) {
    by_tiles(y, tile_rows(d, r), [&](const Tile& own) {
      const int64_t begin = own.begin, n = own.rows;
      T* const to = out<T>(y) + begin * d;
      float* const tile = mask.seed.defined() ? room<float>(n * d, 0) : tile_for(to, n * d, 0);
      if (base.defined()) kernels::cpu::widen(in<T>(base) + begin * d, tile, n * d);
      if (added.defined()) kernels::cpu::add_to_rows(tile, in<float>(added), n, d, /*accumulate=*/base.defined());
      kernels::cpu::thin_product({in<float>(left) + begin * r, r, 1, in<float>(right), d, tile, d, n, r, d,
                                  /*accumulate=*/base.defined() || added.defined()});
      if (mask.seed.defined()) {
        drop(narrowed<T>(tile, n * d), to, n * d, mask, begin * d);
      } else {
        put(tile, to, n * d);
      }
    });
  });
}

}  // namespace veneer::cpu
