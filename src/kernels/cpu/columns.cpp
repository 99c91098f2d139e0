// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/columns.h"

#include "kernels/cpu/clones.h"
#include "kernels/cpu/numbers.h"

namespace veneer::kernels::cpu {
namespace {

// Columns in pieces, whose factors then stay in the first-level cache beside a row of each.
constexpr int64_t piece = 1024;

template <class T>
VENEER_INLINE void scale_row(const T* y, const float* __restrict g, const float* __restrict shift, T* out, int64_t d) {
  if (shift == nullptr) {
#pragma GCC ivdep
    for (int64_t j = 0; j < d; ++j) from_float(to_float(y[j]) * g[j], out[j]);
  } else {
#pragma GCC ivdep
    for (int64_t j = 0; j < d; ++j) from_float(to_float(y[j]) * g[j] + shift[j], out[j]);
  }
}

template <class T>
VENEER_INLINE void sum_row(const T* __restrict dy, const T* __restrict y, const float* __restrict bias,
                           float* __restrict sums, int64_t d) {
  if (bias == nullptr) {
    for (int64_t j = 0; j < d; ++j) sums[j] += to_float(dy[j]) * to_float(y[j]);
  } else {
    for (int64_t j = 0; j < d; ++j) sums[j] += to_float(dy[j]) * (to_float(y[j]) - bias[j]);
  }
}

VENEER_CLONES void scale(const float* y, const float* g, const float* shift, float* out, int64_t d) {
  scale_row(y, g, shift, out, d);
}
VENEER_CLONES void scale(const Bf16* y, const float* g, const float* shift, Bf16* out, int64_t d) {
  scale_row(y, g, shift, out, d);
}
VENEER_CLONES void scale(const Fp16* y, const float* g, const float* shift, Fp16* out, int64_t d) {
  scale_row(y, g, shift, out, d);
}
VENEER_CLONES void sum(const float* dy, const float* y, const float* bias, float* sums, int64_t d) {
  sum_row(dy, y, bias, sums, d);
}
VENEER_CLONES void sum(const Bf16* dy, const Bf16* y, const float* bias, float* sums, int64_t d) {
  sum_row(dy, y, bias, sums, d);
}
VENEER_CLONES void sum(const Fp16* dy, const Fp16* y, const float* bias, float* sums, int64_t d) {
  sum_row(dy, y, bias, sums, d);
}

template <class F>
void by_pieces(int64_t n, int64_t d, const F& f) {
  for (int64_t j = 0; j < d; j += piece) {
    for (int64_t i = 0; i < n; ++i) f(i * d + j, j, d - j < piece ? d - j : piece);
  }
}

const float* from(const float* numbers, int64_t j) { return numbers == nullptr ? nullptr : numbers + j; }

}  // namespace

template <class T>
void scale_columns(const T* y, const float* g, const float* shift, T* out, int64_t n, int64_t d) {
  by_pieces(n, d, [&](int64_t at, int64_t j, int64_t width) { scale(y + at, g + j, from(shift, j), out + at, width); });
}

template <class T>
void scale_and_sum_columns(const T* dy, const T* y, const float* bias, const float* g, float* sums, T* scaled,
                           int64_t n, int64_t d) {
  by_pieces(n, d, [&](int64_t at, int64_t j, int64_t width) {
    sum(dy + at, y + at, from(bias, j), sums + j, width);
    if (scaled != nullptr) scale(dy + at, g + j, nullptr, scaled + at, width);  // a row that is in the cache by now
  });
}

template void scale_columns(const float*, const float*, const float*, float*, int64_t, int64_t);
template void scale_columns(const Bf16*, const float*, const float*, Bf16*, int64_t, int64_t);
template void scale_columns(const Fp16*, const float*, const float*, Fp16*, int64_t, int64_t);
template void scale_and_sum_columns(const float*, const float*, const float*, const float*, float*, float*, int64_t,
                                    int64_t);
template void scale_and_sum_columns(const Bf16*, const Bf16*, const float*, const float*, float*, Bf16*, int64_t,
                                    int64_t);
template void scale_and_sum_columns(const Fp16*, const Fp16*, const float*, const float*, float*, Fp16*, int64_t,
                                    int64_t);

}  // namespace veneer::kernels::cpu
