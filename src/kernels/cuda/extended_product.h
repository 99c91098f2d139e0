// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A matrix product with a low-rank product in its accumulator: one sum in float32, rounded once. For NVIDIA GPUs of
// compute capability 9.0, built for 90a.
#pragma once

#include <cstdint>

#include "kernels/cuda/thin_products.h"  // Mask
#include "kernels/seeded_dropout.h"      // Bf16, Fp16

namespace veneer::kernels::cuda {

// forward:      y = gain * (x w^T + h p^T) + bias    w [columns, depth], p [columns, rank]
// not forward:  y = x w + kept_scale * mask(h p) + bias    w [depth, columns], p [rank, columns]
// All contiguous and aligned to 16 bytes. y and `plain` may be none of the others.
template <class T>
struct ExtendedProduct {
  const T* x;  // [rows, depth]
  const T* w;
  const T* h;  // [rows, rank]
  const T* p;
  const T* bias;      // [columns], or null
  const float* gain;  // [columns], or null; only forward
  Mask mask;          // only not forward, where extended_mask_supported
  float kept_scale;   // with a mask
  T* y;               // [rows, columns]
  T* plain;           // with a gain: what y is without it, [rows, columns]
  int64_t rows, depth, columns, rank;
  bool forward;
};

// Any number of rows. A rank that is not a multiple of 16 costs as much as the next one that is.
inline bool extended_product_supported(int device_major, int64_t depth, int64_t columns, int64_t rank) {
  constexpr int64_t most = int64_t{1} << 30;
  return device_major == 9 && depth > 0 && depth % 8 == 0 && depth <= most && columns > 0 && columns % 8 == 0 &&
         columns <= most && rank > 0 && rank % 8 == 0 && rank <= 64;
}

// Whether the columns of a tile lie in one half of a block of the mask's.
inline bool extended_mask_supported(int64_t columns) { return columns % dropout_block == 0; }

// Whether this build has the kernel: one of its architectures is 90a.
bool extended_product_built();
// Launches on `stream` (a cudaStream_t). T: Bf16, Fp16. Returns a cudaError_t, 0 on success: cudaErrorInvalidValue for
// what is not supported, cudaErrorNoKernelImageForDevice in a build without 90a.
template <class T>
int extended_product(const ExtendedProduct<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
