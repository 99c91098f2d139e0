// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two float32 tensors rounded to 16 bits by one kernel: the factors of an update, which are trained in float32 and
// multiplied with rows of 16 bits. So small that a launch takes longer than the numbers do.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {

// T: Bf16 or Fp16. All pointers at multiples of 16 bytes. Either tensor may have no numbers.
template <class T>
struct Narrowing {
  const float* from[2];
  T* to[2];
  int64_t numbers[2];
};

// Launches on `stream` (a cudaStream_t). Returns a cudaError_t, 0 on success.
template <class T>
int narrow_two(const Narrowing<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
