// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The norms of the rows of a weight with a low-rank update (DoRA), without the update's matrix. Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cuda {

// norms[i] = ||W[i] + scale * B[i] A||, from ||W[i]||^2 + 2 scale <W[i] A^T, B[i]> + scale^2 <B[i] (A A^T), B[i]>, at
// least `smallest`; and where there are magnitudes, norms rounded as those are, and gains[i] = magnitudes[i] /
// norms[i]. T: Bf16, Fp16; M: T or float; sums are float32. Rows of W start at multiples of 16 bytes.
template <class T, class M>
struct RowNorms {
  const T* weight;        // W [rows, columns]
  int64_t rows, columns;  // columns a multiple of 8
  const T* cross;         // W A^T [rows, rank]
  const T* square;        // A A^T [rank, rank]
  const T* b;             // B [rows, rank]
  int64_t rank;
  float scale;
  float smallest;
  const M* magnitudes;  // [rows], or null
  float* norms;         // [rows]
  float* gains;         // [rows], with magnitudes
};

// Launches on `stream` (a cudaStream_t). Returns a cudaError_t, 0 on success.
template <class T, class M>
int row_norms(const RowNorms<T, M>& call, void* stream);

}  // namespace veneer::kernels::cuda
