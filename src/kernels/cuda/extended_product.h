// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A matrix product with a low-rank product in its accumulator, or with a gain, or both: one sum in float32, rounded
// once. For NVIDIA GPUs of compute capability 9.0, built for 90a.
#pragma once

#include <cstdint>

#include "kernels/cuda/thin_products.h"  // Mask
#include "kernels/seeded_dropout.h"      // Bf16, Fp16

namespace veneer::kernels::cuda {

// Sums over the rows, taken beside a product by warps that have nothing else to do: the gradients of a factor of the
// update, and of a gain; either or both.
//   of_other [rank, columns] = kept_scale * h^T mask(other)              in float32 or rounded, the other pointer null
//   of_plain [depth]         = the sums of x * (plain - plain_bias), divided by plain_divisors; likewise
template <class T>
struct ExtendedSums {
  const T* other;  // [rows, columns], or null
  float* of_other;
  T* rounded_of_other;
  const T* plain;               // [rows, depth], or null
  const T* plain_bias;          // [depth], or null
  const float* plain_divisors;  // [depth], or null
  float* of_plain;
  T* rounded_of_plain;
  void* workspace;  // extended_sums_bytes
};

// forward:      y = gain * (x w^T + h p^T) + bias    w [columns, depth], p [columns, rank]
//               with gained_bias, y = gain * (x w^T + h p^T + bias)
// not forward:  y = x w + kept_scale * mask(h p)           w [depth, columns], p [rank, columns]
// All contiguous and aligned to 16 bytes. What is written may be none of the others. With a rank of 0 there is no
// update, and no mask.
template <class T>
struct ExtendedProduct {
  const T* x;  // [rows, depth]
  const T* w;
  const T* h;  // [rows, rank]
  const T* p;
  const T* bias;      // [columns], or null; only forward
  const float* gain;  // [columns], or null; only forward
  bool gained_bias;
  Mask mask;         // only not forward, where extended_mask_supported
  float kept_scale;  // with a mask
  T* y;              // [rows, columns]
  T* plain;          // with a gain: what y is without it, [rows, columns]
  int64_t rows, depth, columns, rank;
  bool forward;
  ExtendedSums<T> sums;  // only not forward, where extended_sums_supported
};

// Any number of rows. A rank that is not a multiple of 16 costs as much as the next one that is.
inline bool extended_product_supported(int device_major, int64_t depth, int64_t columns, int64_t rank) {
  constexpr int64_t most = int64_t{1} << 30;
  return device_major == 9 && depth > 0 && depth % 8 == 0 && depth <= most && columns > 0 && columns % 8 == 0 &&
         columns <= most && rank >= 0 && rank % 8 == 0 && rank <= 64;
}

// Whether the columns of a tile lie in one half of a block of the mask's.
inline bool extended_mask_supported(int64_t columns) { return columns % dropout_block == 0; }

constexpr int64_t extended_sums_rank = 16;  // the largest: a pass of its own takes less time than those of more

// Whether the sums are taken beside the product: for enough rows that all multiprocessors have part of it.
inline bool extended_sums_supported(int64_t rows, int64_t columns, int64_t rank) {
  return rank <= extended_sums_rank && rows * columns >= (int64_t{1} << 21);
}
// Of the workspace, on a device of that many multiprocessors.
template <class T>
int64_t extended_sums_bytes(const ExtendedProduct<T>& call, int processors);

// Whether this build has the kernel: one of its architectures is 90a. Asked on a device that is supported.
bool extended_product_built();
// Launches on `stream` (a cudaStream_t). T: Bf16, Fp16. Returns a cudaError_t, 0 on success: cudaErrorInvalidValue for
// what is not supported, cudaErrorNoKernelImageForDevice in a build without 90a.
template <class T>
int extended_product(const ExtendedProduct<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
