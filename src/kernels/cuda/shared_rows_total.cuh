// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The second half of the sums over rows that shared_rows_kernel.cuh takes backward: those of the clusters, in their
// order. A thread a number, unlike add_up.cuh's turned sums, since few columns have many clusters.
#pragma once

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/narrow_layer.h"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {
namespace shared_rows {

constexpr int total_threads = 1024, total_columns = total_threads / narrow_inner;

// to.x[k] = the sums over clusters of x_parts[cluster, k], to.up[k, j] = up_scale * those of up_parts[cluster, j, k],
// to.down[j, k] = down_scale * those of down_parts[cluster, j, k], and to.dz[j] = the sums over blocks of
// dz_parts[block, j].
template <class To>
struct Total {
  const float* up_parts;
  const float* down_parts;
  const float* x_parts;   // or null
  const float* dz_parts;  // or null
  int clusters, blocks, m, columns;
  float up_scale, down_scale;
  NarrowSums<To> to;

  __host__ __device__ int up_blocks() const { return (columns + total_columns - 1) / total_columns; }
  __host__ __device__ int down_blocks() const { return (columns * m + total_threads - 1) / total_threads; }
  __host__ __device__ int x_blocks() const {
    return x_parts != nullptr ? (columns + total_threads - 1) / total_threads : 0;
  }
};

template <class To>
__global__ void __launch_bounds__(total_threads) add_up_clusters(const Total<To> of) {
  await_order();
  const auto total = [](const float* part, int64_t each, int first, int count, int step) {
    float sum = 0;
#pragma unroll 8
    for (int k = first; k < count; k += step) sum += part[k * each];
    return sum;
  };
  constexpr int pitch = narrow_inner + 2;  // two rows of 16 columns in different banks
  __shared__ float turned[total_columns * pitch];
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int up_blocks = of.up_blocks(), down_end = up_blocks + of.down_blocks(), x_end = down_end + of.x_blocks();
  if (block >= x_end) {
    const int column = thread % narrow_inner, slice = thread / narrow_inner;
    if (column < of.m) {
      turned[slice * pitch + column] = total(of.dz_parts + column, of.m, slice, of.blocks, total_columns);
    }
    __syncthreads();
    if (thread < of.m) of.to.dz[thread] = narrow<To>(total(turned + thread, pitch, 0, total_columns, 1));
    return;
  }
  if (block >= down_end) {
    const int column = (block - down_end) * total_threads + thread;
    if (column < of.columns) {
      of.to.x[column] = narrow<To>(total(of.x_parts + column, of.columns, 0, of.clusters, 1));
    }
    return;
  }
  if (block >= up_blocks) {
    const int numbers = of.m * of.columns, i = (block - up_blocks) * total_threads + thread;
    if (i < numbers) {
      of.to.down[i] = narrow<To>(of.down_scale * total(of.down_parts + i, numbers, 0, of.clusters, 1));
    }
    return;
  }
  const int first_column = block * total_columns, column = thread % total_columns, row = thread / total_columns;
  if (row < of.m && first_column + column < of.columns) {
    const int64_t at = static_cast<int64_t>(row) * of.columns + first_column + column;
    turned[column * pitch + row] = total(of.up_parts + at, static_cast<int64_t>(of.m) * of.columns, 0, of.clusters, 1);
  }
  __syncthreads();
  const int to = thread / of.m;
  if (to < total_columns && first_column + to < of.columns) {
    of.to.up[static_cast<int64_t>(first_column) * of.m + thread] =
        narrow<To>(turned[to * pitch + thread % of.m] * of.up_scale);
  }
}

template <class To>
void launch_total(const Total<To>& of, cudaStream_t stream) {
  const int blocks = of.up_blocks() + of.down_blocks() + of.x_blocks() + (of.dz_parts != nullptr ? 1 : 0);
  launch_in_order(add_up_clusters<To>, static_cast<unsigned>(blocks), total_threads, 0, stream, of);
}

}  // namespace shared_rows
}  // namespace
}  // namespace veneer::kernels::cuda
