// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two thin products with a nonlinearity between them, an adapter layer's down and up projection or the gradients that
// go back through them, in one pass over the rows. For NVIDIA GPUs of compute capability 9.0, built for 90a.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"  // Bf16, Fp16

namespace veneer::kernels::cuda {

enum class Nonlinearity : int { gelu, gelu_tanh, relu, silu, tanh };

constexpr int64_t narrow_inner = 64;  // the most inner numbers m

// The sums over all rows: of first_scale * x^T act(z), of second_scale * dz^T input, of x and of dz.
template <class To>
struct NarrowSums {
  To* up;    // [depth, m]
  To* down;  // [m, columns]
  To* x;     // [depth], or null
  To* dz;    // [m], or null
};

// forward:      z  = first_scale * x first^T + shift,      y = base + bias + second_scale * act(z) second^T
//               first [m, depth], second [columns, m]; z is written
// not forward:  dz = act'(z) * (first_scale * x first),    y = base + bias + second_scale * dz second
//               first [depth, m], second [m, columns]; z is read, and where narrow_sums_bytes says so the sums are
//               taken that are the gradients of both weights and of the biases; elsewhere dz is written, and `active`,
//               for a product with x that is those of `first` and x, and dz_parts
// All contiguous and aligned to 16 bytes. y may be none of the others, and null with no columns. x is read once where
// it is the base and has 1025 to 4096 columns (backward, without a bias), otherwise twice. Results are the same from
// run to run.
template <class T>
struct NarrowProduct {
  const T* x;      // [rows, depth]
  const T* input;  // [rows, columns], for sums: the layer's
  const T* first;
  const T* shift;          // [m], or null
  T* z;                    // [rows, m]
  T* dz;                   // [rows, m], or null with sums
  T* active;               // [rows, m + 8]: act(z), a one, and zeros
  float* dz_parts;         // [narrow_blocks(rows), m]: of dz over the rows of a block, or null
  NarrowSums<float> sums;  // or
  NarrowSums<T> rounded_sums;
  void* workspace;  // for sums
  const T* second;
  const T* base;  // [rows, columns], or null
  const T* bias;  // [columns], or null
  T* y;           // [rows, columns]
  int64_t rows, depth, m, columns;
  float first_scale, second_scale;
  Nonlinearity nonlinearity;
  bool forward;
};

inline bool narrow_product_supported(int device_major, int64_t depth, int64_t columns, int64_t m) {
  constexpr int64_t most = int64_t{1} << 30;
  return device_major == 9 && depth > 0 && depth % 8 == 0 && depth <= most && columns >= 0 && columns % 8 == 0 &&
         columns <= most && m > 0 && m % 8 == 0 && m <= narrow_inner;
}

// Whether this build has the kernel: one of its architectures is 90a. Asked on a device that is supported.
bool narrow_product_built();
inline int64_t narrow_blocks(int64_t rows) { return (rows + 63) / 64; }
// Of the workspace, where the call takes sums on the current device, by its sizes, base and bias; 0: it does not.
template <class T>
int64_t narrow_sums_bytes(const NarrowProduct<T>& call);
// Launches on `stream` (a cudaStream_t). T: Bf16, Fp16. Returns a cudaError_t, 0 on success: cudaErrorInvalidValue for
// what is not supported, cudaErrorNoKernelImageForDevice in a build without 90a.
template <class T>
int narrow_product(const NarrowProduct<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
