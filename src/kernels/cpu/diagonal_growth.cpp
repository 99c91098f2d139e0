// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/diagonal_growth.h"

#include <algorithm>

#include "kernels/cpu/clones.h"

namespace veneer::kernels::cpu {
namespace {

VENEER_INLINE void grow(double* __restrict sums, const double* __restrict right, double left, int64_t n) {
  for (int64_t j = 0; j < n; ++j) sums[j] += left * right[j];
}

template <class T>
VENEER_INLINE void write(const double* __restrict sums, const T* __restrict base, double scale, T* __restrict out,
                         int64_t n) {
  if (base == nullptr) {
    for (int64_t j = 0; j < n; ++j) out[j] = static_cast<T>(scale * sums[j]);
  } else {
    for (int64_t j = 0; j < n; ++j) out[j] = static_cast<T>(static_cast<double>(base[j]) + scale * sums[j]);
  }
}

template <class T>
VENEER_INLINE void run(const DiagonalGrowth<T>& call, double* sums, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < call.rows; ++i) {
    const int64_t shift = call.rows - 1 - i;  // column j lies on diagonal j + shift
    const int64_t first = std::max<int64_t>(begin - shift, 0), last = std::min(end - shift, call.columns);
    const int64_t grown = i == 0 ? last : std::max<int64_t>(first, 1);
    for (int64_t k = 0; k < call.ranks && grown < last; ++k) {
      grow(sums + shift + grown, call.right + k * call.columns + grown, call.left[i * call.ranks + k], last - grown);
    }
    if (first >= last) continue;
    const int64_t place = i * call.columns + first;
    write(sums + shift + first, call.base == nullptr ? nullptr : call.base + place, call.scale, call.out + place,
          last - first);
  }
}

VENEER_CLONES void cloned(const DiagonalGrowth<float>& call, double* sums, int64_t begin, int64_t end) {
  run(call, sums, begin, end);
}
VENEER_CLONES void cloned(const DiagonalGrowth<double>& call, double* sums, int64_t begin, int64_t end) {
  run(call, sums, begin, end);
}

}  // namespace

template <class T>
void diagonal_growth(const DiagonalGrowth<T>& call, double* sums, int64_t begin, int64_t end) {
  cloned(call, sums, begin, end);
}

template void diagonal_growth(const DiagonalGrowth<float>&, double*, int64_t, int64_t);
template void diagonal_growth(const DiagonalGrowth<double>&, double*, int64_t, int64_t);

}  // namespace veneer::kernels::cpu
