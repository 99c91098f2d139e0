// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Tiles of rows in float32, from other types and to them. T: float, Bf16, Fp16.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"  // Bf16, Fp16

namespace veneer::kernels::cpu {

template <class T>
void widen(const T* from, float* to, int64_t n);
// Rounded to nearest even.
template <class T>
void narrow(const float* from, T* to, int64_t n);

// Each of the rows [n, d] = row, or += row.
void add_to_rows(float* rows, const float* row, int64_t n, int64_t d, bool accumulate);
// row [d] += the sum of the rows [n, d].
void sum_rows(const float* rows, float* row, int64_t n, int64_t d);

}  // namespace veneer::kernels::cpu
