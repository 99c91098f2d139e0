// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Small matrices of float32 numbers, wherever they lie, in the order in which thin_product.h reads them.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// A matrix [rows, columns], element (i, j) at numbers[i * row_stride + j * column_stride].
struct Strided {
  const float* numbers;
  int64_t rows, columns, row_stride, column_stride;
};

// out [rows, width] = scale * m, zeros beyond m's columns.
void rearrange(const Strided& m, float scale, int64_t width, float* out);

}  // namespace veneer::kernels::cpu
