// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The second half of sums over many rows: those of the blocks of threads, in their order.
#pragma once

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

// What is made of a sum.
struct Finish {
  float scale;
  const float* factors = nullptr;   // of each column, or null
  const float* divisors = nullptr;  // likewise

  // Of place i in rows of so many columns.
  __device__ float operator()(float sum, int64_t i, int64_t columns) const {
    sum *= scale;
    if (factors != nullptr) sum *= factors[i % columns];
    return divisors != nullptr ? sum / divisors[i % columns] : sum;
  }
};

// to [rows, columns] of the sums over k of parts [count, rows, columns].
template <class To>
__global__ void add_up(const float* parts, int64_t count, int64_t each, int64_t columns, Finish finish, To* to) {
  await_order();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= each) return;
  float sum = 0;
#pragma unroll 16
  for (int64_t k = 0; k < count; ++k) sum += parts[k * each + i];
  to[i] = narrow<To>(finish(sum, i, columns));
}

template <class To>
void launch_add_up(const float* parts, int64_t count, int64_t rows, int64_t columns, const Finish& finish, To* to,
                   cudaStream_t stream) {
  constexpr int block = 256;
  const int64_t each = rows * columns;
  const auto blocks = static_cast<unsigned>((each + block - 1) / block);
  launch_in_order(add_up<To>, blocks, block, 0, stream, parts, count, each, columns, finish, to);
}

// The same turned: to [columns, rows]. At most most_turned rows.
constexpr int most_turned = 64, turned_columns = 32, turned_lines = 16;

template <class To>
__global__ void add_up_turned(const float* parts, int64_t count, int rows, int64_t columns, Finish finish, To* to) {
  __shared__ float shared[turned_columns * (most_turned + 1)];
  await_order();
  const int pitch = rows | 1;  // odd, so that neighbouring columns lie in different banks
  const int64_t first = static_cast<int64_t>(blockIdx.x) * turned_columns, column = first + threadIdx.x;
  for (int row = static_cast<int>(threadIdx.y); row < rows && column < columns; row += turned_lines) {
    float sum = 0;
#pragma unroll 16
    for (int64_t k = 0; k < count; ++k) sum += parts[(k * rows + row) * columns + column];
    shared[static_cast<int>(threadIdx.x) * pitch + row] = sum;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y * turned_columns + threadIdx.x); i < turned_columns * rows;
       i += turned_columns * turned_lines) {
    const int64_t at = first + i / rows;
    if (at < columns) to[first * rows + i] = narrow<To>(finish(shared[i / rows * pitch + i % rows], at, columns));
  }
}

template <class To>
void launch_add_up_turned(const float* parts, int64_t count, int64_t rows, int64_t columns, const Finish& finish,
                          To* to, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>((columns + turned_columns - 1) / turned_columns);
  launch_in_order(add_up_turned<To>, blocks, dim3(turned_columns, turned_lines), 0, stream, parts, count,
                  static_cast<int>(rows), columns, finish, to);
}

}  // namespace
}  // namespace veneer::kernels::cuda
