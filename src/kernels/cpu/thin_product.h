// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A small product of matrices for operands that lie in a cache: what thin products over rows are made of.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// out [m, n] (+)= left [m, k] right [k, n]. Rows of `right` and `out` are right_row and out_row numbers apart, element
// (i, j) of `left` is at left[i * left_row + j * left_column]; so `left` may be turned.
struct ThinProduct {
  const float* left;
  int64_t left_row, left_column;
  const float* right;
  int64_t right_row;
  float* out;
  int64_t out_row;
  int64_t m, k, n;
  bool accumulate;  // out += instead of out =
};

void thin_product(const ThinProduct& call);

}  // namespace veneer::kernels::cpu
