// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two small matrices as a product takes them, by one kernel: rounded to 16 bits, where factors of an update are trained
// in float32, and with zeros behind rows or columns, where a rank is not a multiple of eight. So small that a launch
// takes longer than the numbers do.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {

// Both aligned to 16 bytes and contiguous. Any size may be 0.
template <class From, class T>
struct Fitting {
  const From* from;  // [rows, columns]
  T* to;             // [to_rows, to_columns], no fewer; to_columns more than columns: a multiple of 4
  int64_t rows, columns, to_rows, to_columns;
};

// Launches on `stream` (a cudaStream_t). T: Bf16 or Fp16, From: float or T. Returns a cudaError_t, 0 on success.
template <class From, class T>
int fit_two(const Fitting<From, T>& first, const Fitting<From, T>& second, void* stream);

}  // namespace veneer::kernels::cuda
