// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/columns.h"

#include "kernels/cpu/clones.h"

namespace veneer::kernels::cpu {
namespace {

// Columns in pieces, whose factors then stay in the first-level cache beside a row of each.
constexpr int64_t piece = 1024;

VENEER_CLONES void scale(const float* y, const float* __restrict g, const float* __restrict shift, float* out,
                         int64_t d) {
  if (shift == nullptr) {
#pragma GCC ivdep
    for (int64_t j = 0; j < d; ++j) out[j] = y[j] * g[j];
  } else {
#pragma GCC ivdep
    for (int64_t j = 0; j < d; ++j) out[j] = y[j] * g[j] + shift[j];
  }
}

VENEER_CLONES void sum(const float* __restrict dy, const float* __restrict y, const float* __restrict bias,
                       float* __restrict sums, int64_t d) {
  if (bias == nullptr) {
    for (int64_t j = 0; j < d; ++j) sums[j] += dy[j] * y[j];
  } else {
    for (int64_t j = 0; j < d; ++j) sums[j] += dy[j] * (y[j] - bias[j]);
  }
}

template <class F>
void by_pieces(int64_t n, int64_t d, const F& f) {
  for (int64_t j = 0; j < d; j += piece) {
    for (int64_t i = 0; i < n; ++i) f(i * d + j, j, d - j < piece ? d - j : piece);
  }
}

}  // namespace

void scale_columns(const float* y, const float* g, const float* shift, float* out, int64_t n, int64_t d) {
  by_pieces(n, d, [&](int64_t at, int64_t j, int64_t width) {
    scale(y + at, g + j, shift == nullptr ? nullptr : shift + j, out + at, width);
  });
}

void sum_columns(const float* dy, const float* y, const float* bias, float* sums, int64_t n, int64_t d) {
  by_pieces(n, d, [&](int64_t at, int64_t j, int64_t width) {
    sum(dy + at, y + at, bias == nullptr ? nullptr : bias + j, sums + j, width);
  });
}

}  // namespace veneer::kernels::cpu
