// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/convert.h"

#include "kernels/cpu/clones.h"
#include "kernels/cpu/numbers.h"

namespace veneer::kernels::cpu {
namespace {

template <class T>
VENEER_INLINE void widen_all(const T* __restrict from, float* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}
template <class T>
VENEER_INLINE void narrow_all(const float* __restrict from, T* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) from_float(from[i], to[i]);
}

VENEER_CLONES void cloned(const float* from, float* to, int64_t n) { widen_all(from, to, n); }
VENEER_CLONES void cloned(const Bf16* from, float* to, int64_t n) { widen_all(from, to, n); }
VENEER_CLONES void cloned(const Fp16* from, float* to, int64_t n) { widen_all(from, to, n); }
VENEER_CLONES void cloned(const float* from, Bf16* to, int64_t n) { narrow_all(from, to, n); }
VENEER_CLONES void cloned(const float* from, Fp16* to, int64_t n) { narrow_all(from, to, n); }

VENEER_CLONES void add_cloned(float* __restrict rows, const float* __restrict row, int64_t n, int64_t d,
                              bool accumulate) {
  for (int64_t i = 0; i < n; ++i, rows += d) {
    if (accumulate) {
      for (int64_t j = 0; j < d; ++j) rows[j] += row[j];
    } else {
      for (int64_t j = 0; j < d; ++j) rows[j] = row[j];
    }
  }
}

VENEER_CLONES void sum_cloned(const float* __restrict rows, float* __restrict row, int64_t n, int64_t d) {
  for (int64_t i = 0; i < n; ++i, rows += d) {
    for (int64_t j = 0; j < d; ++j) row[j] += rows[j];
  }
}

}  // namespace

template <class T>
void widen(const T* from, float* to, int64_t n) {
  cloned(from, to, n);
}
template <class T>
void narrow(const float* from, T* to, int64_t n) {
  cloned(from, to, n);
}

template void widen(const float*, float*, int64_t);
template void widen(const Bf16*, float*, int64_t);
template void widen(const Fp16*, float*, int64_t);
template void narrow(const float*, float*, int64_t);
template void narrow(const float*, Bf16*, int64_t);
template void narrow(const float*, Fp16*, int64_t);

void add_to_rows(float* rows, const float* row, int64_t n, int64_t d, bool accumulate) {
  add_cloned(rows, row, n, d, accumulate);
}

void sum_rows(const float* rows, float* row, int64_t n, int64_t d) { sum_cloned(rows, row, n, d); }

}  // namespace veneer::kernels::cpu
