// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the kernels of thin products share: a block of threads owns a slice of the columns and goes through strips of
// rows, so that what belongs to the columns (a factor, sums over rows) stays in registers.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/thin_products.h"

namespace veneer::kernels::cuda {
namespace {

constexpr int threads = 512, warps = threads / 32;
constexpr int strip = 32;                // rows
constexpr int across = threads / strip;  // threads that share a row
constexpr int slice = 512;               // columns: a block of the mask's, where rows are made of those
constexpr int pitch = slice + 8;         // 16 bytes more: rows of a block of 8 lie in different banks
constexpr int own = slice / warps;       // columns of a warp, where it has all rows

constexpr int64_t most_rows = int64_t{1} << 30;  // rows and columns are counted in 32 bits

struct Split {
  int64_t slices, groups;  // of columns, and of the strips

  __host__ Split(int64_t n, int64_t d, int64_t blocks)
      : slices((d + slice - 1) / slice),
        groups(std::max<int64_t>(1, std::min((n + strip - 1) / strip, blocks / std::max<int64_t>(1, slices)))) {}
};

template <class T>
__device__ uint32_t two(T low, T high) {
  return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
}

// Ones where the halves of `bits` are at least `threshold`.
__device__ uint32_t kept_halves(uint32_t bits, uint32_t threshold) {
  return ((bits & 0xFFFFU) >= threshold ? 0xFFFFU : 0U) | ((bits >> 16) >= threshold ? 0xFFFF0000U : 0U);
}

// Eight neighbours, from element `index` on, a multiple of 8: zero where dropped.
template <class T>
__device__ void drop(Pack<T>& pack, uint64_t seed, int64_t index, uint32_t threshold) {
  auto* words = reinterpret_cast<uint32_t*>(&pack);
  const BlockKey key = block_key(seed, static_cast<uint64_t>(index / dropout_block));
  const auto place = static_cast<uint32_t>(index % dropout_block);
  const bool upper = place >= dropout_words;
  const uint32_t first = place % static_cast<uint32_t>(dropout_words);
#pragma unroll
  for (uint32_t k = 0; k < 4; ++k) {
    const uint32_t a = random_word(key, first + 2 * k), b = random_word(key, first + 2 * k + 1);
    words[k] &= kept_halves(__byte_perm(a, b, upper ? 0x7632 : 0x5410), threshold);
  }
}

// The same for the eight from place `first` of a block on, and the eight 256 further on, which share random words.
template <class T>
__device__ void drop_both(Pack<T>& low, Pack<T>& high, BlockKey key, uint32_t first, uint32_t threshold) {
  auto *lows = reinterpret_cast<uint32_t*>(&low), *highs = reinterpret_cast<uint32_t*>(&high);
#pragma unroll
  for (uint32_t k = 0; k < 4; ++k) {
    const uint32_t a = random_word(key, first + 2 * k), b = random_word(key, first + 2 * k + 1);
    lows[k] &= kept_halves(__byte_perm(a, b, 0x5410), threshold);
    highs[k] &= kept_halves(__byte_perm(a, b, 0x7632), threshold);
  }
}

// A mask, its seed read.
struct Draw {
  uint64_t seed;
  uint32_t threshold;

  __device__ explicit Draw(const Mask& mask)
      : seed(mask.seed != nullptr ? static_cast<uint64_t>(*mask.seed) : 0), threshold(mask.threshold) {}
};

// Goes through a strip's tile in packs: 16 threads share a row. f(row, column, k, pack) for each; with a mask they come
// as pairs of packs 256 columns apart, as the random words do.
template <bool masked, class T, class F>
__device__ void for_packs(T* tile, const Draw& draw, int first_row, int n, int first_column, int d, const F& f) {
  const int row = static_cast<int>(threadIdx.x / across), lane = static_cast<int>(threadIdx.x % across);
  if (first_row + row >= n) return;
  T* const line = tile + row * pitch;
  const int64_t index = static_cast<int64_t>(first_row + row) * d + first_column;
  if (masked && d % slice == 0) {
    const BlockKey key = block_key(draw.seed, static_cast<uint64_t>(index / dropout_block));
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int column = (lane + across * k) * 8;
      Pack<T> low = load(line + column), high = load(line + column + slice / 2);
      drop_both(low, high, key, static_cast<uint32_t>(column), draw.threshold);
      f(row, column, k, low);
      f(row, column + slice / 2, k + 2, high);
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int column = (lane + across * k) * 8;
    if (first_column + column >= d) break;
    Pack<T> pack = load(line + column);
    if constexpr (masked) drop(pack, draw.seed, index + column, draw.threshold);
    f(row, column, k, pack);
  }
}

// Rows of a thin matrix [n, r] into `tile` [strip, R + 8], zeros beyond. With `in_packs`, r a multiple of 8 and rows
// aligned, asynchronously.
template <int R, class T>
__device__ void load_thin(T* tile, const T* h, int r, int first_row, int n, bool in_packs) {
  if (in_packs) {
    const int packs = r / 8;
    for (int i = static_cast<int>(threadIdx.x); i < strip * packs; i += threads) {
      const int row = i / packs, column = i % packs * 8;
      const bool valid = first_row + row < n;
      copy_async(tile + row * (R + 8) + column, valid ? h + static_cast<int64_t>(first_row + row) * r + column : h,
                 valid);
    }
    return;
  }
#pragma unroll 1  // side by side they would take registers from the loop over strips
  for (int i = static_cast<int>(threadIdx.x); i < strip * R; i += threads) {
    const int row = i / R, column = i % R;
    const bool valid = first_row + row < n && column < r;
    tile[row * (R + 8) + column] = valid ? h[static_cast<int64_t>(first_row + row) * r + column] : T{0};
  }
}

// load(blocks[i], i) for each, `at_once` of them side by side. What is loaded is passed on from place to place, so that
// the loop stays one and its addresses take the same registers in each turn.
template <int at_once, class Block, int count, class F>
__device__ __forceinline__ void load_in_steps(Block (&blocks)[count], const F& load) {
#pragma unroll 1
  for (int first = 0; first < count; first += at_once) {
#pragma unroll
    for (int i = 0; i < count - at_once; ++i) blocks[i] = blocks[i + at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) load(blocks[count - at_once + i], first + i);
  }
}

template <class T>
__device__ void clear(T* p, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) p[i] = T{0};
}

bool in_packs(const void* h, int64_t r) { return r % 8 == 0 && reinterpret_cast<uintptr_t>(h) % 16 == 0; }

// launch(R) with the smallest compiled rank R, a constant, that holds r; what is beyond is filled with zeros.
template <class Call, class F>
int launch_by_rank(const Call& call, const F& launch) {
  if (call.n > most_rows || call.d > most_rows) return static_cast<int>(cudaErrorInvalidValue);
  if (call.n == 0 || call.d == 0 || call.r == 0) return 0;
  if (call.r <= 16) return launch(std::integral_constant<int, 16>());
  return call.r <= 32 ? launch(std::integral_constant<int, 32>()) : launch(std::integral_constant<int, 64>());
}

}  // namespace
}  // namespace veneer::kernels::cuda
