// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Tiles of rows and the small matrices that they are multiplied with, in float32 (kernels/cpu/thin_product.h).
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <type_traits>

#include "core/tiles.h"
#include "kernels/cpu/rearrange.h"
#include "kernels/cpu/seeded_dropout.h"
#include "kernels/cpu/vector.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"

namespace veneer::cpu {

// Factors are padded to whole vectors.
inline int64_t padded(int64_t r) {
  constexpr int64_t lanes = kernels::cpu::lanes;
  return (r + lanes - 1) / lanes * lanes;
}

// Rows of a tile of about so many numbers, d to a row: a multiple of what the product takes at once.
inline int64_t tile_height(int64_t numbers, int64_t d) {
  constexpr int64_t lanes = kernels::cpu::lanes, most = 64;
  return std::clamp(numbers / d / lanes * lanes, lanes, most);
}

template <class T>
void drop(const T* x, T* y, int64_t numbers, const Dropped& mask, int64_t first) {
  kernels::cpu::seeded_dropout<T>(
      {x, y, numbers, mask.seed.const_data_ptr<int64_t>(), dropout_threshold(mask.p), dropout_scale(mask.p), first}, 0,
      numbers);
}

// Rows of dropout(x), in x itself or in a room; the same as float32.
template <class T>
const T* dropped_rows(const Dropped& x, int64_t begin, int64_t n) {
  const int64_t d = x.x.size(1);
  const T* const rows = in<T>(x.x) + begin * d;
  if (!x.seed.defined()) return rows;
  T* const dropped = room<T>(n * d, 0);
  drop(rows, dropped, n * d, x, begin * d);
  return dropped;
}
template <class T>
const float* rows_of(const Dropped& x, int64_t begin, int64_t n) {
  return widened(dropped_rows<T>(x, begin, n), n * x.x.size(1), 0);
}

// The numbers of a tile as T, in the tile itself or in a room.
template <class T>
const T* narrowed(const float* tile, int64_t numbers) {
  if constexpr (std::is_same_v<T, float>) {
    return tile;
  } else {
    T* const to = room<T>(numbers, 1);
    kernels::cpu::narrow(tile, to, numbers);
    return to;
  }
}

// scale * t, contiguous, of a vector or a matrix: t itself where it is that.
inline at::Tensor as_float(const at::Tensor& t, double scale = 1.0) {
  at::Tensor wide = veneer::wide(t);
  if (scale == 1.0 && wide.is_contiguous()) return wide;
  at::Tensor result = at::empty(wide.sizes(), wide.options());
  const int64_t last = wide.dim() - 1, rows = last == 0 ? 1 : wide.size(0);
  kernels::cpu::rearrange({in<float>(wide), rows, wide.size(last), last == 0 ? 0 : wide.stride(0), wide.stride(last)},
                          static_cast<float>(scale), wide.size(last), out<float>(result));
  return result;
}

// scale * factor^T [d, r], padded with columns of zeros.
inline at::Tensor turned_and_padded(const at::Tensor& factor, double scale) {
  const at::Tensor wide = veneer::wide(factor);
  const int64_t r = wide.size(0), d = wide.size(1);
  at::Tensor result = at::empty({d, padded(r)}, wide.options());
  kernels::cpu::rearrange({in<float>(wide), d, r, wide.stride(1), wide.stride(0)}, static_cast<float>(scale), padded(r),
                          out<float>(result));
  return result;
}

}  // namespace veneer::cpu
