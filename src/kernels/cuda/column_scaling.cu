// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A warp reads 512 bytes of a row at once; each thread keeps what belongs to its columns and goes down the rows.
#include "kernels/cuda/column_scaling.h"

#include <algorithm>

#include "kernels/cuda/add_up.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int packs = 32, lines = 8;  // a block of threads: packs across, rows down

// Blocks down the rows.
int64_t groups(int64_t n, int64_t across, int processors) {
  constexpr int64_t resident = 8;  // blocks of a multiprocessor
  return std::max<int64_t>(1, std::min((n + lines - 1) / lines, resident * processors / std::max<int64_t>(1, across)));
}

template <class T>
dim3 grid_of(int64_t n, int64_t d, int processors) {
  const int64_t width = packs * Pack<T>::size, across = (d + width - 1) / width;
  return {static_cast<unsigned>(across), static_cast<unsigned>(groups(n, across, processors))};
}

template <class T>
__device__ int64_t own_column() {
  return (static_cast<int64_t>(blockIdx.x) * packs + threadIdx.x) * Pack<T>::size;
}

template <class T>
__device__ void load_wide(float (&to)[Pack<T>::size], const T* from) {
  const Pack<T> pack = load(from);
#pragma unroll
  for (int k = 0; k < Pack<T>::size; ++k) to[k] = wide(pack.at[k]);
}

template <class T>
__global__ void __launch_bounds__(packs* lines) scale(ColumnScaling<T> call) {
  await_order();
  constexpr int size = Pack<T>::size;
  const int64_t column = own_column<T>();
  if (column >= call.d) return;
  float g[size], shift[size] = {};
#pragma unroll
  for (int k = 0; k < size; ++k) g[k] = call.g != nullptr ? call.g[column + k] : 1.0F;
  if (call.bias != nullptr) {
    load_wide(shift, call.bias + column);
#pragma unroll
    for (int k = 0; k < size; ++k) shift[k] *= call.g != nullptr ? 1.0F - g[k] : 1.0F;
  }
  const int64_t step = static_cast<int64_t>(gridDim.y) * lines;
#pragma unroll 4
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * lines + threadIdx.y; row < call.n; row += step) {
    float y[size];
    load_wide(y, call.y + row * call.d + column);
    Pack<T> out;
#pragma unroll
    for (int k = 0; k < size; ++k) out.at[k] = narrow<T>(fmaf(y[k], g[k], shift[k]));
    store(call.out + row * call.d + column, out);
  }
}

template <class T>
__global__ void __launch_bounds__(packs* lines) sum(ColumnSums<T> call, float* parts) {
  await_order();
  constexpr int size = Pack<T>::size;
  const int64_t column = own_column<T>();
  const bool inside = column < call.d;
  float g[size] = {}, bias[size] = {}, sums[size] = {};
  if (inside) {
#pragma unroll
    for (int k = 0; k < size; ++k) g[k] = call.scaled != nullptr ? call.g[column + k] : 0.0F;
    if (call.bias != nullptr) load_wide(bias, call.bias + column);
    const int64_t step = static_cast<int64_t>(gridDim.y) * lines;
#pragma unroll 4
    for (int64_t row = static_cast<int64_t>(blockIdx.y) * lines + threadIdx.y; row < call.n; row += step) {
      float dy[size], y[size];
      load_wide(dy, call.dy + row * call.d + column);
      load_wide(y, call.y + row * call.d + column);
#pragma unroll
      for (int k = 0; k < size; ++k) sums[k] = fmaf(dy[k], y[k] - bias[k], sums[k]);
      if (call.scaled != nullptr) {
        Pack<T> out;
#pragma unroll
        for (int k = 0; k < size; ++k) out.at[k] = narrow<T>(dy[k] * g[k]);
        store(call.scaled + row * call.d + column, out);
      }
    }
  }
  __shared__ float shared[lines][packs * size];
#pragma unroll
  for (int k = 0; k < size; ++k) shared[threadIdx.y][k * packs + threadIdx.x] = sums[k];
  __syncthreads();
  if (threadIdx.y != 0 || !inside) return;
#pragma unroll
  for (int k = 0; k < size; ++k) {
    float total = 0;
#pragma unroll
    for (int line = 0; line < lines; ++line) total += shared[line][k * packs + threadIdx.x];
    parts[blockIdx.y * call.d + column + k] = total;
  }
}

}  // namespace

int64_t column_sums_bytes(int64_t n, int64_t d, int processors) {
  return 4 * groups(n, 1, processors) * d;  // of one block across: no grid has more down
}

template <class T>
int column_scaling(const ColumnScaling<T>& call, int processors, void* stream) {
  if (call.n == 0 || call.d == 0) return 0;
  launch_in_order(scale<T>, grid_of<T>(call.n, call.d, processors), dim3(packs, lines), 0,
                  static_cast<cudaStream_t>(stream), call);
  return static_cast<int>(cudaGetLastError());
}

template <class T>
int column_sums(const ColumnSums<T>& call, int processors, void* stream) {
  if (call.n == 0 || call.d == 0) return 0;
  const auto on = static_cast<cudaStream_t>(stream);
  const dim3 grid = grid_of<T>(call.n, call.d, processors);
  auto* const parts = static_cast<float*>(call.workspace);
  launch_in_order(sum<T>, grid, dim3(packs, lines), 0, on, call, parts);
  launch_add_up(parts, grid.y, 1, call.d, {1.0F}, call.sums, on);
  return static_cast<int>(cudaGetLastError());
}

template int column_scaling(const ColumnScaling<float>&, int, void*);
template int column_scaling(const ColumnScaling<Bf16>&, int, void*);
template int column_scaling(const ColumnScaling<Fp16>&, int, void*);
template int column_sums(const ColumnSums<float>&, int, void*);
template int column_sums(const ColumnSums<Bf16>&, int, void*);
template int column_sums(const ColumnSums<Fp16>&, int, void*);

}  // namespace veneer::kernels::cuda
