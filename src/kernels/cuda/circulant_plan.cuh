// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Sizes d = R 16 16. A group of threads transforms a tile of row pairs, 16 points a thread: a pass over columns of R
// points, 256 apart, between which and the rest lie the only barriers; then blocks of 256, each 16 neighbouring
// threads' own. Groups of a CTA share the tables and nothing else, so they drift apart and one's loads hide behind
// another's arithmetic. Rows go from memory to registers in coalesced lines, without a detour through shared memory.
#pragma once

#include "kernels/cuda/circulant_rows.cuh"
#include "kernels/cuda/instructions.cuh"

namespace veneer::kernels::cuda {
namespace {

template <int R>
struct Plan {
  static constexpr int d = 256 * R;
  static constexpr int pairs = R == 1 ? 8 : R <= 3 ? 4 : R <= 6 ? 2 : 1;  // of a tile: 128 threads or more
  static constexpr int threads = 16 * R * pairs;
  static constexpr int columns = (256 * pairs + threads - 1) / threads;  // a thread
  // Beyond a radix of 20 the twiddles would take the room of the sums: 1..7, 8, 16, 24 and products of these.
  static constexpr int twiddle_rows = R <= 20 ? R - 1 : 7 + R / 8 - 1;
  // In Complex numbers. A block of 16 rows of 16 is padded to 17, against bank conflicts.
  static constexpr int block = 16 * 17;
  static constexpr int outer = 0, inner = outer + 256 * twiddle_rows, filter = inner + 256, tables = filter + d;
  static constexpr int buffer = R * pairs * block, sums = d * pairs;
  // As many groups as registers allow without spills, and shared memory at launch.
  static constexpr int product_groups = (R == 4 || R == 8 || R == 16 ? 1024 : 768) / threads;
  static constexpr int gradient_groups = 512 / threads;

  // Position (k1, k2, k3) of a tile's or a table's spectrum is the number k3 of thread (k1, k2).
  __host__ __device__ static constexpr int frequency_at(int index) {
    return index / 16 % R + R * (index % 16 + 16 * (index / (16 * R)));
  }
};

template <int R>
__device__ void fill_tables(Complex* tables, const Complex* spectrum) {
  using P = Plan<R>;
  for (int i = threadIdx.x; i < 256 * P::twiddle_rows; i += blockDim.x) {
    const int row = i / 256 + 1, k = R <= 20 || row < 8 ? row : 8 * (row - 7);
    tables[P::outer + i] = root(i % 256 * k, P::d);
  }
  for (int i = threadIdx.x; i < 256; i += blockDim.x) tables[P::inner + i] = root(i / 16 * (i % 16), 256);
  if (spectrum == nullptr) return;
  for (int i = threadIdx.x; i < P::d; i += blockDim.x) {
    tables[P::filter + i] = filter_value(spectrum, P::frequency_at(i), P::d);
  }
}

template <int R>
__device__ Complex outer_twiddle(const Complex* tables, int column, int k) {
  const Complex* outer = tables + Plan<R>::outer + column - 256;
  if (R <= 20 || k < 8) return outer[256 * k];
  const Complex high = outer[256 * (7 + k / 8)];
  return k % 8 == 0 ? high : high * outer[256 * (k % 8)];
}

// `ready` waits until z may be overwritten: after the loads are on their way.
template <int R, class T, class Ready>
__device__ void read_columns(const T* x, int64_t tile, int64_t n, const Complex* tables, Complex* z, int t,
                             Ready ready) {
  using P = Plan<R>;
  Complex v[P::columns][R];
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column < 256 * P::pairs) {
      const int64_t row = 2 * (tile * P::pairs + column / 256);
#pragma unroll
      for (int j = 0; j < R; ++j) v[i][j] = pair_value(x, row, n, P::d, j * 256 + column % 256);
      dft<R>(v[i]);
    } else {  // left undefined, the last tile's numbers would stay alive, and spill
#pragma unroll
      for (int j = 0; j < R; ++j) v[i][j] = {};
    }
  }
  ready();
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column >= 256 * P::pairs) break;
    Complex* at = z + column / 256 * R * P::block + column % 256 + column % 256 / 16;
    at[0] = v[i][0];
#pragma unroll
    for (int k = 1; k < R; ++k) at[k * P::block] = v[i][k] * outer_twiddle<R>(tables, column % 256, k);
  }
}

template <int R, class T>
__device__ void write_columns(T* y, int64_t tile, int64_t n, const Complex* tables, const Complex* z, int t) {
  using P = Plan<R>;
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column >= 256 * P::pairs) break;
    const Complex* at = z + column / 256 * R * P::block + column % 256 + column % 256 / 16;
    Complex v[R];
    v[0] = at[0];
#pragma unroll
    for (int k = 1; k < R; ++k) v[k] = at[k * P::block] * conj(outer_twiddle<R>(tables, column % 256, k));
    inverse_dft<R>(v);
    const int64_t row = 2 * (tile * P::pairs + column / 256);
#pragma unroll
    for (int j = 0; j < R; ++j) store_pair(y, row, n, P::d, j * 256 + column % 256, v[j]);
  }
}

// A block's two passes of radix 16. Its 16 threads are one half of a warp.
template <int R>
__device__ void transform_block(const Complex* tables, Complex* z, int t, Complex (&v)[16]) {
  const int lane = t % 16;
  z += t / 16 * Plan<R>::block;
#pragma unroll
  for (int j = 0; j < 16; ++j) v[j] = z[j * 17 + lane];
  dft<16>(v);
  z[lane] = v[0];
#pragma unroll
  for (int k = 1; k < 16; ++k) z[k * 17 + lane] = v[k] * tables[Plan<R>::inner + k * 16 + lane];
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 16; ++j) v[j] = z[lane * 17 + j];
  dft<16>(v);
}

template <int R>
__device__ void invert_block(const Complex* tables, Complex* z, int t, Complex (&v)[16]) {
  const int lane = t % 16;
  z += t / 16 * Plan<R>::block;
  inverse_dft<16>(v);
#pragma unroll
  for (int j = 0; j < 16; ++j) z[lane * 17 + j] = v[j];
  __syncwarp();
  v[0] = z[lane];
#pragma unroll
  for (int k = 1; k < 16; ++k) v[k] = z[k * 17 + lane] * conj(tables[Plan<R>::inner + k * 16 + lane]);
  inverse_dft<16>(v);
#pragma unroll
  for (int k = 0; k < 16; ++k) z[k * 17 + lane] = v[k];
}

// The next tile on its way to L2: what is left to wait for is L2's latency, not the memory's.
template <int R, class T>
__device__ void prefetch_tile(const T* x, int64_t tile, int64_t n, int t) {
  using P = Plan<R>;
  constexpr int64_t step = 32 / sizeof(T);  // a sector
  const int64_t first = tile * 2 * P::pairs * P::d;
#pragma unroll
  for (int i = 0; i < 32 / step; ++i) {
    const int64_t at = first + (t + i * P::threads) * step;
    if (at < n * P::d) prefetch(x + at);
  }
}

}  // namespace
}  // namespace veneer::kernels::cuda
