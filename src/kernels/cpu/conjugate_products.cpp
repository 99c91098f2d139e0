// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/conjugate_products.h"

#include "kernels/cpu/clones.h"

namespace veneer::kernels::cpu {
namespace {

template <class T>
VENEER_INLINE void add(const T* __restrict x, const T* __restrict y, T* __restrict sums, int64_t n) {
  for (int64_t k = 0; k < 2 * n; k += 2) {
    sums[k] += x[k] * y[k] + x[k + 1] * y[k + 1];
    sums[k + 1] += x[k] * y[k + 1] - x[k + 1] * y[k];
  }
}

VENEER_CLONES void cloned(const float* x, const float* y, float* sums, int64_t n) { add(x, y, sums, n); }
VENEER_CLONES void cloned(const double* x, const double* y, double* sums, int64_t n) { add(x, y, sums, n); }

}  // namespace

template <class T>
void conjugate_products(const T* x, const T* y, T* sums, int64_t rows, int64_t n) {
  for (int64_t i = 0; i < rows; ++i) cloned(x + 2 * i * n, y + 2 * i * n, sums, n);
}

template void conjugate_products(const float*, const float*, float*, int64_t, int64_t);
template void conjugate_products(const double*, const double*, double*, int64_t, int64_t);

}  // namespace veneer::kernels::cpu
