// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Convolutions of rows on a CPU, tile by tile of sixteen rows (kernels/cpu/row_transform.h): filters in the order of
// the tiles, signals from their sums, and tiles from rows and back. Without gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "core/tiles.h"
#include "kernels/cpu/row_transform.h"

namespace veneer::cpu {

// Of one length, cyclic or negacyclic.
class RowConvolution {
 public:
  // Made once for each; `takes` says for which lengths.
  static const RowConvolution& of(int64_t length, bool negacyclic = false);
  static bool takes(int64_t length) { return kernels::cpu::RowTransform::takes(length); }

  const kernels::cpu::RowTransform& transform() const { return transform_; }
  // The filters that convolve with real signals [*, length], scaled for the way back: float32 [*, length, 2].
  at::Tensor filters(const at::Tensor& signals) const;
  // Of sums conj(x) y, [strips, *, length, 2]: the sums over strips and both rows of a pair as real signals [*,
  // length], each the correlation of x and y.
  at::Tensor correlations(const at::Tensor& sums) const;

 private:
  RowConvolution(int64_t length, bool negacyclic) : transform_(length, negacyclic) {}

  kernels::cpu::RowTransform transform_;
};

// The transformed tiles of n rows of x, one after another in z: block i has numbers i * length and on of a row, as far
// as there are any.
template <class T>
void read_blocks(const kernels::cpu::RowTransform& transform, const at::Tensor& x, int64_t begin, int64_t n,
                 int64_t blocks, float* z) {
  const int64_t length = transform.length(), d = x.size(1);
  const float* const rows = widened(in<T>(x) + begin * d, n * d, 0);
  for (int64_t i = 0; i < blocks; ++i, z += transform.numbers()) {
    const int64_t width = std::clamp<int64_t>(d - i * length, 0, length);
    transform.read(rows + i * length, n, width, d, z);
    transform.forward(z, width);
  }
}

// The same back: `tile(i)` is block i, transformed, which is overwritten.
template <class T, class Tile>
void write_blocks(const kernels::cpu::RowTransform& transform, const Tile& tile, int64_t blocks, const at::Tensor& y,
                  int64_t begin, int64_t n) {
  const int64_t length = transform.length(), d = y.size(1);
  T* const to = out<T>(y) + begin * d;
  float* const rows = tile_for(to, n * d, 0);
  for (int64_t i = 0; i < blocks; ++i) {
    float* const z = tile(i);
    transform.inverse(z);
    transform.write(z, rows + i * length, n, std::clamp<int64_t>(d - i * length, 0, length), d);
  }
  put(rows, to, n * d);
}

// f(first, rows, sums) for tile after tile of x, where f adds to `count` tiles of sums. Their lanes are added to `to`,
// strip by strip: [strips, *, length, 2], count of them a strip, zeros before.
template <class F>
void by_summed_tiles(const kernels::cpu::RowTransform& transform, const at::Tensor& x, int64_t count,
                     const at::Tensor& to, const F& f) {
  const int64_t numbers = transform.numbers(), places = 2 * transform.length();
  by_rows(x, false, [&](int64_t begin, int64_t end, int64_t strip) {
    float* const sums = room<float>(count * numbers, 3);
    std::fill(sums, sums + count * numbers, 0.0F);
    constexpr int64_t most = kernels::cpu::RowTransform::rows;
    for (int64_t i = begin; i < end; i += most) f(i, std::min(most, end - i), sums);
    float* const own = out<float>(to) + strip * count * places;
    for (int64_t k = 0; k < count; ++k) transform.add_lanes(sums + k * numbers, own + k * places);
  });
}

}  // namespace veneer::cpu
