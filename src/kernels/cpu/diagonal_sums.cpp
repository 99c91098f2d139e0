// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/diagonal_sums.h"

#include <cstddef>
#include <utility>
#include <vector>

#include "kernels/cpu/clones.h"

namespace veneer::kernels::cpu {
namespace {

// above and sums [columns + 1]: place j + 1 is column j, place 0 stays zero.
template <class T>
VENEER_INLINE void row_sums(T* __restrict row, const double* __restrict above, double* __restrict sums,
                            int64_t columns) {
  for (int64_t j = 0; j < columns; ++j) {
    const double sum = above[j] + static_cast<double>(row[j]);
    sums[j + 1] = sum;
    row[j] = static_cast<T>(sum);
  }
}

VENEER_CLONES void cloned(float* row, const double* above, double* sums, int64_t n) { row_sums(row, above, sums, n); }
VENEER_CLONES void cloned(double* row, const double* above, double* sums, int64_t n) { row_sums(row, above, sums, n); }

}  // namespace

template <class T>
void diagonal_sums(T* m, int64_t rows, int64_t columns) {
  std::vector<double> above(static_cast<std::size_t>(columns) + 1), sums(above.size());
  for (int64_t i = 0; i < rows; ++i) {
    cloned(m + i * columns, above.data(), sums.data(), columns);
    std::swap(above, sums);
  }
}

template void diagonal_sums(float*, int64_t, int64_t);
template void diagonal_sums(double*, int64_t, int64_t);

}  // namespace veneer::kernels::cpu
