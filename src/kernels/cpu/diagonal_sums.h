// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// m [rows, columns], row by row, in place: m[i, j] += m[i - 1, j - 1] from the first row on, so that each place has the
// sum of its diagonal down to it. Sums in float64. T: float, double.
template <class T>
void diagonal_sums(T* m, int64_t rows, int64_t columns);

}  // namespace veneer::kernels::cpu
