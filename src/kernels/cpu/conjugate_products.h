// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// sums[k] += the sum over rows of conj(x[., k]) * y[., k]; x and y [rows, n] of complex numbers, real and imaginary
// part in turn. T, of a part: float, double.
template <class T>
void conjugate_products(const T* x, const T* y, T* sums, int64_t rows, int64_t n);

}  // namespace veneer::kernels::cpu
