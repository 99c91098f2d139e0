// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Sums over the rows of a matrix, taken by single warps straight from memory, without shared memory, barriers and
// tensor cores: beside a product that keeps those busy. (A warp's own matrix instructions wait for a gap between those
// of the product: 700 cycles each on an H100.) What is summed is written once for each group of rows; a second kernel
// adds those up (kernels/cuda/add_up.cuh).
#pragma once

#include <algorithm>

#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/thin_products.h"  // Mask
#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {
namespace {

// The rows of a matrix [n, d] in groups, as many as keep `workers` warps busy that have `width` columns each.
struct RowGroups {
  int n = 0, d = 0, width = 1;
  int count = 0, rows = 0;  // of a group

  RowGroups() = default;
  RowGroups(int64_t n, int64_t d, int width, int64_t workers)
      : n(static_cast<int>(n)), d(static_cast<int>(d)), width(width) {
    constexpr int64_t unit = 16;  // a group's rows are a multiple of these
    const int64_t units = (n + unit - 1) / unit, most = std::max<int64_t>(1, std::min(units, workers / across()));
    rows = static_cast<int>((units + most - 1) / most * unit);
    count = static_cast<int>((n + rows - 1) / rows);
  }
  __host__ __device__ int across() const { return (d + width - 1) / width; }
};

// parts [groups, rank, d]: of each group of rows left^T mask(x).
template <class T>
struct RowSums {
  const T* x;     // [n, d], or null: nothing is done
  const T* left;  // [n, rank], rank a multiple of 8 and at most row_sums_rank
  Mask mask;      // only where d is a multiple of its block
  int rank;
  RowGroups groups;
  float* parts;

  int64_t numbers() const { return int64_t{groups.count} * rank * groups.d; }
};

// parts [groups, d]: of each group of rows the sums of x * (y - bias).
template <class T>
struct RowProducts {
  const T* x;     // [n, d], or null: nothing is done
  const T* y;     // [n, d]
  const T* bias;  // [d], or null
  RowGroups groups;
  float* parts;

  int64_t numbers() const { return int64_t{groups.count} * groups.d; }
};

constexpr int row_sums_rank = 16, row_sums_columns = 4;  // of a lane, for 64 sums in registers
static_assert(row_sums_columns == 4, "loaded as 8 bytes, stored as 16");
constexpr int row_sums_width = 32 * row_sums_columns, row_products_width = 32 * 8;

// What is read once and should not take the place of what is read again.
template <class V>
__device__ V load_once(const void* p) {
  return __ldcs(static_cast<const V*>(p));
}

template <class T>
__device__ float half_of(uint32_t word, bool upper) {
  return wide(T{static_cast<uint16_t>(upper ? word >> 16 : word)});
}

// One warp, one group of rows. The rows come in chunks, the next ones while this one is multiplied; of `left` each
// lane loads a part of the chunk, for all.
template <bool masked, class T>
__device__ void sum_group(const RowSums<T>& call, int first_column, int group) {
  constexpr int R = row_sums_rank, columns = row_sums_columns, chunk = 8, words = chunk * R / 64;
  const int lane = static_cast<int>(threadIdx.x) % 32, column = first_column + lane * columns, d = call.groups.d;
  const int begin = group * call.groups.rows, end = min(call.groups.n, begin + call.groups.rows);
  const bool inside = column < d;

  struct Chunk {
    uint2 x[chunk];
    uint32_t left[words];
  };
  const auto fetch = [&](int first) {
    Chunk to;
#pragma unroll
    for (int k = 0; k < chunk; ++k) {
      const T* const from = call.x + static_cast<int64_t>(first + k) * d + column;
      to.x[k] = inside && first + k < end ? load_once<uint2>(from) : uint2{};
    }
#pragma unroll
    for (int i = 0; i < words; ++i) {
      const int word = lane * words + i, row = first + word / (R / 2), number = word % (R / 2) * 2;
      const bool valid = row < end && number < call.rank;
      to.left[i] =
          valid ? __ldg(reinterpret_cast<const unsigned int*>(call.left + int64_t{row} * call.rank + number)) : 0U;
    }
    return to;
  };

  [[maybe_unused]] uint64_t seed = 0;
  if constexpr (masked) seed = static_cast<uint64_t>(__ldg(reinterpret_cast<const long long*>(call.mask.seed)));
  [[maybe_unused]] const int shift = column % dropout_block >= dropout_words ? 16 : 0;
  [[maybe_unused]] const auto place = static_cast<uint32_t>(column % dropout_words);

  float sums[R][columns] = {};
  Chunk now = fetch(begin);
  [[maybe_unused]] Chunk next;
  if constexpr (!masked) next = fetch(begin + chunk);  // a mask takes the registers
#pragma unroll 1
  for (int first = begin; first < end; first += chunk) {
    const Chunk last = fetch(first + (masked ? 1 : 2) * chunk);
    [[maybe_unused]] BlockKey own{};
    if constexpr (masked) {  // of one row each
      own = block_key(seed, (static_cast<uint64_t>(first + lane % chunk) * d + first_column) / dropout_block);
    }
#pragma unroll
    for (int k = 0; k < chunk; ++k) {
      float x[columns];
#pragma unroll
      for (int j = 0; j < columns; ++j) x[j] = half_of<T>(j < 2 ? now.x[k].x : now.x[k].y, j % 2 != 0);
      if constexpr (masked) {
        const BlockKey key{__shfl_sync(~0U, own.start, k), __shfl_sync(~0U, own.twist, k)};
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          if ((random_word(key, place + j) >> shift & 0xFFFFU) < call.mask.threshold) x[j] = 0;
        }
      }
#pragma unroll
      for (int i = 0; i < R / 2; ++i) {
        const int word = k * (R / 2) + i;
        const uint32_t two = __shfl_sync(~0U, now.left[word % words], word / words);
#pragma unroll
        for (int j = 0; j < columns; ++j) {
          sums[2 * i][j] = fmaf(half_of<T>(two, false), x[j], sums[2 * i][j]);
          sums[2 * i + 1][j] = fmaf(half_of<T>(two, true), x[j], sums[2 * i + 1][j]);
        }
      }
    }
    if constexpr (masked) {
      now = last;
    } else {
      now = next, next = last;
    }
  }

  if (!inside) return;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (i >= call.rank) break;
    float* const to = call.parts + (int64_t{group} * call.rank + i) * d + column;
    *reinterpret_cast<float4*>(to) = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }
}

// One warp, one group of rows; a lane has eight columns.
template <class T>
__device__ void multiply_group(const RowProducts<T>& call, int first_column, int group) {
  constexpr int at_once = 4;
  const int column = first_column + static_cast<int>(threadIdx.x) % 32 * 8, d = call.groups.d;
  if (column >= d) return;
  const int begin = group * call.groups.rows, end = min(call.groups.n, begin + call.groups.rows);
  const auto pack_of = [](const int4& from) { return reinterpret_cast<const Pack<T>&>(from); };
  Pack<T> bias{};
  if (call.bias != nullptr) bias = load(call.bias + column);
  float sums[8] = {};
#pragma unroll 1
  for (int first = begin; first < end; first += at_once) {
    int4 x[at_once], y[at_once];
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const int64_t at = static_cast<int64_t>(first + k) * d + column;
      const bool valid = first + k < end;
      x[k] = valid ? load_once<int4>(call.x + at) : int4{};
      y[k] = valid ? load_once<int4>(call.y + at) : int4{};
    }
#pragma unroll
    for (int k = 0; k < at_once; ++k) {
      const Pack<T> one = pack_of(x[k]), other = pack_of(y[k]);
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[j] = fmaf(wide(one.at[j]), wide(other.at[j]) - wide(bias.at[j]), sums[j]);
    }
  }
  float* const to = call.parts + int64_t{group} * d + column;
#pragma unroll
  for (int j = 0; j < 8; j += 4) {
    *reinterpret_cast<float4*>(to + j) = make_float4(sums[j], sums[j + 1], sums[j + 2], sums[j + 3]);
  }
}

// f(first column, group) for the share of warp `worker` of `workers`.
template <class F>
__device__ void for_share(const RowGroups& groups, int worker, int workers, const F& f) {
  const int across = groups.across();
#pragma unroll 1
  for (int unit = worker; unit < across * groups.count; unit += workers) f(unit % across * groups.width, unit / across);
}

template <bool masked, class T>
__device__ void sum_rows(const RowSums<T>& call, int worker, int workers) {
  if (call.x == nullptr) return;
  for_share(call.groups, worker, workers, [&](int column, int group) { sum_group<masked>(call, column, group); });
}

template <class T>
__device__ void multiply_rows(const RowProducts<T>& call, int worker, int workers) {
  if (call.x == nullptr) return;
  for_share(call.groups, worker, workers, [&](int column, int group) { multiply_group(call, column, group); });
}

}  // namespace
}  // namespace veneer::kernels::cuda
