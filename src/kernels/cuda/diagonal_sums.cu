// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/diagonal_sums.h"

#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"

namespace veneer::kernels::cuda {
namespace {

// A thread goes down a diagonal; threads beside each other stand beside each other in a row.
template <class T>
__global__ void sum_down(T* m, int64_t rows, int64_t columns) {
  const int64_t diagonal = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x - (rows - 1);
  if (diagonal >= columns) return;
  const int64_t first = diagonal < 0 ? -diagonal : 0;
  const int64_t end = rows < columns - diagonal ? rows : columns - diagonal;
  double sum = 0;
  constexpr int ahead = 16;  // loads under way at once
  for (int64_t row = first; row < end; row += ahead) {
    T values[ahead];
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      values[k] = row + k < end ? m[(row + k) * columns + row + k + diagonal] : T(0);
    }
#pragma unroll
    for (int k = 0; k < ahead; ++k) {
      sum += values[k];
      if (row + k < end) m[(row + k) * columns + row + k + diagonal] = static_cast<T>(sum);
    }
  }
}

}  // namespace

template <class T>
int diagonal_sums(T* m, int64_t rows, int64_t columns, void* stream) {
  if (rows == 0 || columns == 0) return 0;
  constexpr int block = 64;
  const int64_t diagonals = rows + columns - 1;
  return launch(sum_down<T>, static_cast<unsigned>((diagonals + block - 1) / block), block, 0,
                static_cast<cudaStream_t>(stream), m, rows, columns);
}

template int diagonal_sums(float*, int64_t, int64_t, void*);
template int diagonal_sums(double*, int64_t, int64_t, void*);

}  // namespace veneer::kernels::cuda
