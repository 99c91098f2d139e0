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

// forward:      z  = first_scale * x first^T + shift,      y = base + bias + second_scale * act(z) second^T
//               first [m, depth], second [columns, m]; z is written
// not forward:  dz = act'(z) * (first_scale * x first),    y = base + bias + second_scale * dz second
//               first [depth, m], second [m, columns]; z is read, dz is written, and the sums over the rows that
//               the gradients of `first` and of a bias behind it are:
//               up_sums = first_scale * x^T act(z),  dy_sums = those of x
//               where narrow_sums_bytes says so; elsewhere `active`, for a product with x that is both
// All contiguous and aligned to 16 bytes. y may be none of the others, and null with no columns. x is read once where
// it is the base, has at most 4096 columns, and has no bias backward, otherwise twice. Results are the same from run to
// run.
template <class T>
struct NarrowProduct {
  const T* x;  // [rows, depth]
  const T* first;
  const T* shift;  // [m], or null
  T* z;            // [rows, m]
  T* dz;           // [rows, m]
  float* dz_sums;  // [narrow_sums, m], together those of dz over the rows; or null
  T* active;       // [rows, m + 8]: act(z), a one, and zeros
  float* up_sums;  // [depth, m]; or rounded:
  T* rounded_up_sums;
  float* dy_sums;   // [depth], or null
  void* workspace;  // narrow_sums_bytes
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

// Whether this build has the kernel: one of its architectures is 90a.
bool narrow_product_built();
// How many rows of sums the call writes to dz_sums, on the current device. It depends, as the next does, on the sizes,
// the base and the bias.
template <class T>
int64_t narrow_sums(const NarrowProduct<T>& call);
// What the call needs to take the sums with x; 0: it does not take them, and writes `active`.
template <class T>
int64_t narrow_sums_bytes(const NarrowProduct<T>& call);
// Launches on `stream` (a cudaStream_t). T: Bf16, Fp16. Returns a cudaError_t, 0 on success: cudaErrorInvalidValue for
// what is not supported, cudaErrorNoKernelImageForDevice in a build without 90a.
template <class T>
int narrow_product(const NarrowProduct<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
