// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A thin product of many rows, each block with whole rows of x, so that no partial results are written. For NVIDIA GPUs
// of compute capability 9.0, built for 90a. Torch-free.
#pragma once

#include <cstdint>

#include "kernels/cuda/narrow_layer.h"  // narrow_inner

namespace veneer::kernels::cuda {

// h [rows, rank] = scale * x factor^T; factor [rank, depth], or `turned` [depth, rank]. All contiguous and aligned to
// 16 bytes. T: Bf16, Fp16.
template <class T>
struct RowProduct {
  const T* x;  // [rows, depth]
  int64_t rows, depth, rank;
  const T* factor;
  bool turned;
  float scale;
  T* h;
};

// Whether blocks of 64 rows keep most of the multiprocessors busy, and sizes and architecture suit.
inline bool row_product_supported(int device_major, int processors, int64_t rows, int64_t depth, int64_t rank) {
  const int64_t blocks = (rows + 63) / 64, turns = (blocks + processors - 1) / processors;
  return narrow_product_supported(device_major, depth, 0, rank) && rows <= (int64_t{1} << 30) &&
         4 * blocks >= 3 * turns * processors;
}

// Whether this build has the kernel: one of its architectures is 90a. Asked on a device that is supported.
bool row_product_built();
// Launches on `stream` (a cudaStream_t). Returns a cudaError_t, 0 on success.
template <class T>
int row_product(const RowProduct<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
