// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The products of a low-rank update of many rows, which are bound by the bytes of x: each reads it once. Torch-free.
// All matrices lie row by row; T is Bf16 or Fp16, sums are float32. Results are the same from run to run: sums are
// taken in a fixed order, without atomics.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {

constexpr int64_t thin_rank = 64;  // the largest rank r

// What they need of a device: shared memory that a block may use. (An A100 has 163 KiB.)
constexpr int64_t thin_shared_bytes = int64_t{163} * 1024;

// Whether the kernels take rows of d numbers that start at p.
inline bool thin_rows(const void* p, int64_t d) { return d % 8 == 0 && reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// The mask of `seeded_dropout` on a matrix [n, d], from its first element on; no seed: nothing is dropped. Kept numbers
// are not scaled: the caller's factor is.
struct Mask {
  const int64_t* seed = nullptr;
  uint32_t threshold = 0;
};

// h [n, r] = scale * mask(x) factor^T, and sums [r, d] = scale * left^T mask(x), either of which may be left out
// (null).
template <class T>
struct ThinReduction {
  const T* x;  // [n, d]
  int64_t n, d;
  int64_t r;  // at most thin_rank; for both results at once at most 32
  Mask mask;
  const T* factor;  // [r, d] with strides, for h
  int64_t factor_row, factor_column;
  T* h;  // [n, r]
  float h_scale;
  const T* left;  // [n, r], for sums
  float* sums;    // [r, d]; or rounded:
  T* rounded_sums;
  bool turned;  // sums [d, r] instead
  float sums_scale;
  const float* sums_gain;  // [d], or null: the sums of column j are multiplied by sums_gain[j] too
  void* workspace;         // thin_reduction_bytes
};

// y [n, d] = base + bias + scale * mask(h factor); base [n, d] and bias [d] may be null, base must be with a mask.
template <class T>
struct ThinExpansion {
  const T* h;  // [n, r]
  int64_t n, d;
  int64_t r;
  Mask mask;        // of y
  const T* factor;  // [r, d] with strides
  int64_t factor_row, factor_column;
  float scale;
  const T* bias;
  const T* base;
  T* y;
};

// On a device of that many multiprocessors.
template <class T>
int64_t thin_reduction_bytes(const ThinReduction<T>& call, int processors);
// Launch on `stream` (a cudaStream_t); return a cudaError_t, 0 on success. Nothing is done without rows or columns:
// sums of no rows are the caller's.
template <class T>
int thin_reduction(const ThinReduction<T>& call, int processors, void* stream);
template <class T>
int thin_expansion(const ThinExpansion<T>& call, int processors, void* stream);

}  // namespace veneer::kernels::cuda
