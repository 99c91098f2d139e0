// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The norms of the rows of a weight with a low-rank update (DoRA), without the update's matrix; and rows scaled.
// Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cuda {

constexpr int64_t row_norms_rank = 32;  // the largest

// norms[i] = ||W[i] + scale * B[i] A||, from ||W[i]||^2 + 2 scale <W[i] A^T, B[i]> + scale^2 <B[i] (A A^T), B[i]>, at
// least `smallest`, in one pass over W; and where there are magnitudes, norms rounded as those are, and gains[i] =
// magnitudes[i] / norms[i]. T: Bf16, Fp16; M: T or float; sums are float32. Rows of W and A start at multiples of 16
// bytes.
template <class T, class M>
struct RowNorms {
  const T* weight;        // W [rows, columns]
  int64_t rows, columns;  // columns a multiple of 8
  const T* a;             // A [rank, columns]
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

// to[i] = g[i] * weight[i], rows of `columns` numbers. Launches likewise.
template <class T>
int scaled_rows(const T* weight, int64_t rows, int64_t columns, const float* g, T* to, void* stream);

}  // namespace veneer::kernels::cuda
