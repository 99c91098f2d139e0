// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The norms of the rows of a weight with a low-rank update (DoRA), without the update's matrix. Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cuda {

// norms[i] = ||W[i] + scale * B[i] A||, from ||W[i]||^2 + 2 scale <W[i] A^T, B[i]> + scale^2 <B[i] (A A^T), B[i]>. T:
// Bf16, Fp16; sums are float32. Rows of W start at multiples of 16 bytes.
template <class T>
struct RowNorms {
  const T* weight;        // W [rows, columns]
  int64_t rows, columns;  // columns a multiple of 8
  const T* cross;         // W A^T [rows, rank]
  const T* square;        // A A^T [rank, rank]
  const T* b;             // B [rows, rank]
  int64_t rank;
  float scale;
  float* norms;  // [rows]
};

// Launches on `stream` (a cudaStream_t). Returns a cudaError_t, 0 on success.
template <class T>
int row_norms(const RowNorms<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
