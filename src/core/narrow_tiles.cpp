// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/narrow_tiles.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/activation.h"
#include "core/tile_rows.h"
#include "core/tiles.h"
#include "kernels/cpu/thin_product.h"

namespace veneer::cpu {
namespace {

using kernels::cpu::thin_product;

// Rows of a tile: many, since an operator of ATen on so few numbers as the inner ones takes as long as on ten times as
// many; measured at d = 768, where 128 rows of two matrices do not even fit into the second-level cache.
int64_t rows_of_tile(int64_t d) { return std::clamp<int64_t>((int64_t{96} << 10) / d / 16 * 16, 16, 128); }

// The inner numbers of a tile are [n, width] in float32; what lies beyond the layer's m is zero.
struct Inner {
  int64_t m, width;

  at::Tensor tensor(int64_t n) const { return at::empty({n, width}, at::kFloat); }

  template <class T>
  void load(const at::Tensor& z, int64_t begin, const at::Tensor& to) const {
    float* const inner = out<float>(to);
    std::fill_n(inner, to.numel(), 0.0F);
    for (int64_t i = 0; i < to.size(0); ++i) kernels::cpu::widen(in<T>(z) + (begin + i) * m, inner + i * width, m);
  }
  template <class T>
  void store(const at::Tensor& from, const at::Tensor& z, int64_t begin) const {
    const float* const inner = in<float>(from);
    for (int64_t i = 0; i < from.size(0); ++i) {
      kernels::cpu::narrow(inner + i * width, out<T>(z) + (begin + i) * m, m);
    }
  }
};

// to [n, d] = base + bias + h up, any of the two may be missing: h [n, width], up [m, d] in float32.
template <class T>
void add_up(const Inner& inner, const at::Tensor& h, const at::Tensor& up, const T* base, const at::Tensor& bias,
            float* to) {
  const int64_t n = h.size(0), d = up.size(1);
  if (base != nullptr) kernels::cpu::widen(base, to, n * d);
  if (bias.defined()) kernels::cpu::add_to_rows(to, in<float>(bias), n, d, /*accumulate=*/base != nullptr);
  thin_product({in<float>(h), inner.width, 1, in<float>(up), d, to, d, n, inner.m, d,
                /*accumulate=*/base != nullptr || bias.defined()});
}

// scale * rows factor, for factor [d, width] turned and padded.
void reduce(const float* rows, const at::Tensor& factor, const at::Tensor& to) {
  const int64_t d = factor.size(0), width = factor.size(1);
  thin_product(
      {rows, d, 1, in<float>(factor), width, out<float>(to), width, to.size(0), d, width, /*accumulate=*/false});
}

// strip `strip` of sums [strips, m, d] (+)= left^T rows: left [n, width], rows [n, d].
void add_to_sums(const at::Tensor& left, const float* rows, const at::Tensor& sums, const Tile& tile) {
  const int64_t m = sums.size(1), d = sums.size(2);
  thin_product({in<float>(left), 1, left.size(1), rows, d, out<float>(sums) + tile.strip * m * d, d, m, tile.rows, d,
                /*accumulate=*/!tile.first});
}

// strip `strip` of sums [strips, 1, d] (+)= the sum of rows [n, d].
void add_to_sums(const float* rows, const at::Tensor& sums, const Tile& tile) {
  const int64_t d = sums.size(2);
  float* const sum = out<float>(sums) + tile.strip * d;
  if (tile.first) std::fill_n(sum, d, 0.0F);
  kernels::cpu::sum_rows(rows, sum, tile.rows, d);
}

}  // namespace

NarrowLayer::Output narrow_forward(const NarrowLayer& layer, const Dropped& x, const at::Tensor& base) {
  const int64_t d_in = x.x.size(1), d_out = layer.up.size(0), m = layer.down.size(0);
  const Inner inner{m, padded(m)};
  NarrowLayer::Output result{at::empty_like(base), at::empty({x.x.size(0), m}, x.x.options())};
  const at::Tensor down = turned_and_padded(layer.down, layer.down_scale), up = as_float(layer.up.t(), layer.up_scale);
  const at::Tensor shift =
      layer.down_bias.defined() ? at::constant_pad_nd(as_float(layer.down_bias), {0, inner.width - m}) : at::Tensor();
  const at::Tensor bias = layer.up_bias.defined() ? as_float(layer.up_bias) : at::Tensor();
  for_type(x.x, [&]<class T>(T) {
    by_tiles(x.x, rows_of_tile(std::max(d_in, d_out)), [&](const Tile& tile) {
      const int64_t begin = tile.begin, n = tile.rows;
      const at::Tensor z = inner.tensor(n);
      reduce(rows_of<T>(x, begin, n), down, z);
      if (shift.defined()) kernels::cpu::add_to_rows(out<float>(z), in<float>(shift), n, inner.width, true);
      inner.store<T>(z, result.z, begin);
      T* const to = out<T>(result.y) + begin * d_out;
      float* const y = tile_for(to, n * d_out, 0);
      add_up(inner, activate(layer.activation, z), up, in<T>(base) + begin * d_out, bias, y);
      put(y, to, n * d_out);
    });
  });
  return result;
}

NarrowLayer::Gradients narrow_backward(const NarrowLayer& layer, const at::Tensor& dy, const Dropped& x,
                                       const at::Tensor& z, const at::Tensor& residual, bool wants_x) {
  const int64_t d_in = x.x.size(1), d_out = layer.up.size(0), m = layer.down.size(0), strips = strips_of(x.x);
  const Inner inner{m, padded(m)};
  const at::Tensor up = turned_and_padded(layer.up.t(), layer.up_scale), down = as_float(layer.down, layer.down_scale);
  const auto sums_of = [&](int64_t rows, int64_t d) {
    return at::empty({strips, rows, d}, x.x.options().dtype(at::kFloat));
  };
  const at::Tensor ups = sums_of(m, d_out), downs = sums_of(m, d_in);
  const at::Tensor of_up_bias = layer.up_bias.defined() ? sums_of(1, d_out) : at::Tensor();
  const at::Tensor of_down_bias = layer.down_bias.defined() ? sums_of(1, inner.width) : at::Tensor();
  NarrowLayer::Gradients result;
  if (wants_x) result.x = at::empty_like(x.x);
  for_type(x.x, [&]<class T>(T) {
    by_tiles(x.x, rows_of_tile(std::max(d_in, d_out)), [&](const Tile& tile) {
      const int64_t begin = tile.begin, n = tile.rows;
      const float* const g = widened(in<T>(dy) + begin * d_out, n * d_out, 2);
      const at::Tensor state = inner.tensor(n), da = inner.tensor(n);
      inner.load<T>(z, begin, state);
      reduce(g, up, da);
      const at::Tensor dz = activate_pullback(layer.activation, state, da);
      add_to_sums(activate(layer.activation, state), g, ups, tile);
      add_to_sums(dz, rows_of<T>(x, begin, n), downs, tile);
      if (of_up_bias.defined()) add_to_sums(g, of_up_bias, tile);
      if (of_down_bias.defined()) add_to_sums(in<float>(dz), of_down_bias, tile);
      if (!wants_x) return;
      const bool masked = x.seed.defined();
      const T* const more = residual.defined() ? in<T>(residual) + begin * d_in : nullptr;
      T* const to = out<T>(result.x) + begin * d_in;
      float* const dx = masked ? room<float>(n * d_in, 1) : tile_for(to, n * d_in, 1);
      add_up<T>(inner, dz, down, masked ? nullptr : more, {}, dx);
      if (!masked) return put(dx, to, n * d_in);
      drop(narrowed<T>(dx, n * d_in), to, n * d_in, x, begin * d_in);
      if (more == nullptr) return;
      kernels::cpu::widen(to, dx, n * d_in);
      kernels::cpu::add_to_rows(dx, widened(more, n * d_in, 3), 1, n * d_in, /*accumulate=*/true);
      kernels::cpu::narrow(dx, to, n * d_in);
    });
  });
  result.up = as_float(over_strips(ups).t(), layer.up_scale);
  result.down = as_float(over_strips(downs), layer.down_scale);
  if (of_up_bias.defined()) result.up_bias = over_strips(of_up_bias).flatten();
  if (of_down_bias.defined()) result.down_bias = over_strips(of_down_bias).flatten().narrow(0, 0, m);
  return result;
}

}  // namespace veneer::cpu
