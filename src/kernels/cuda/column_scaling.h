// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Columns of a matrix [n, d] scaled, and the sums that are the factors' gradients. Torch-free. T: float, Bf16, Fp16; g,
// bias and sums in float32 arithmetic. Rows start at multiples of 16 bytes. Without atomics: the same every time.
#pragma once

#include <cstdint>

namespace veneer::kernels::cuda {

// Whether the kernels take rows of d numbers of `bytes` bytes that start at p.
inline bool packed_rows(const void* p, int64_t d, int64_t bytes) {
  return d * bytes % 16 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// out = y * g + (1 - g) * bias, or y + bias where g is null; g [d], bias [d] or null. out may be y.
template <class T>
struct ColumnScaling {
  const T* y;
  int64_t n, d;
  const float* g;
  const T* bias;
  T* out;
};

// sums[j] = the sum over rows of dy[., j] * (y[., j] - bias[j]), and where `scaled` is not null scaled = dy * g.
template <class T>
struct ColumnSums {
  const T* dy;
  const T* y;
  int64_t n, d;
  const float* g;  // for `scaled`
  const T* bias;
  T* scaled;
  float* sums;      // [d]
  void* workspace;  // column_sums_bytes
};

int64_t column_sums_bytes(int64_t n, int64_t d, int processors);
// Launch on `stream` (a cudaStream_t); return a cudaError_t, 0 on success. Without rows nothing is done.
template <class T>
int column_scaling(const ColumnScaling<T>& call, int processors, void* stream);
template <class T>
int column_sums(const ColumnSums<T>& call, int processors, void* stream);

}  // namespace veneer::kernels::cuda
