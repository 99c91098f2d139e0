// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Rows [n, d] whose columns are scaled, in one pass. T: float, Bf16 or Fp16; arithmetic and sums are float32.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// out = y * g + shift; shift [d] may be null. out may be y.
template <class T>
void scale_columns(const T* y, const float* g, const float* shift, T* out, int64_t n, int64_t d);

// The gradients: scaled = dy * g, where scaled is not null, and sums [d] += the sums over rows of dy * (y - bias); bias
// may be null. scaled may be dy.
template <class T>
void scale_and_sum_columns(const T* dy, const T* y, const float* bias, const float* g, float* sums, T* scaled,
                           int64_t n, int64_t d);

}  // namespace veneer::kernels::cpu
