// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Torch-free.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// out = base + scale * M for a matrix M [rows, columns] whose first row and column are given, and which grows along its
// diagonals by a product of thin matrices: M[i, j] = M[i - 1, j - 1] + sum over k of left[i, k] right[k, j]. M is never
// written, its diagonals are summed in float64. T: float, double.
template <class T>
struct DiagonalGrowth {
  int64_t rows, columns, ranks;
  const double* left;   // [rows, ranks]
  const double* right;  // [ranks, columns]
  const T* base;        // [rows, columns], or null
  double scale;
  T* out;  // [rows, columns]
};

// Diagonals [begin, end) of the rows + columns - 1: number d has the places with j - i = d - (rows - 1). `sums` has its
// first place for each of them, and is overwritten. Diagonals may be computed at once by several threads.
template <class T>
void diagonal_growth(const DiagonalGrowth<T>& call, double* sums, int64_t begin, int64_t end);

}  // namespace veneer::kernels::cpu
