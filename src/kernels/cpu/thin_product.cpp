// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/thin_product.h"

#include "kernels/cpu/vector.h"

namespace veneer::kernels::cpu {
namespace {

// `rows` x `columns` vectors of the output, which stay in registers: each number of `left` that is loaded serves
// `columns` vectors, each vector of `right` `rows` of them. `width`: of the last vector.
template <int rows, int columns>
VENEER_INLINE void block(const ThinProduct& call, const float* left, const float* right, float* out, int64_t width) {
  Vector sums[rows][columns];
  VENEER_UNROLL
  for (int i = 0; i < rows; ++i) {
    VENEER_UNROLL
    for (int j = 0; j < columns; ++j) {
      const int64_t here = j + 1 == columns ? width : lanes;
      if (call.accumulate) {
        load(sums[i][j], out + i * call.out_row + j * lanes, here);
      } else {
        sums[i][j] = Vector{};
      }
    }
  }
  for (int64_t k = 0; k < call.k; ++k) {
    Vector b[columns];
    VENEER_UNROLL
    for (int j = 0; j < columns; ++j) {
      load(b[j], right + k * call.right_row + j * lanes, j + 1 == columns ? width : lanes);
    }
    VENEER_UNROLL
    for (int i = 0; i < rows; ++i) {
      const float a = left[i * call.left_row + k * call.left_column];
      VENEER_UNROLL
      for (int j = 0; j < columns; ++j) sums[i][j] += a * b[j];
    }
  }
  VENEER_UNROLL
  for (int i = 0; i < rows; ++i) {
    VENEER_UNROLL
    for (int j = 0; j < columns; ++j) {
      store(out + i * call.out_row + j * lanes, sums[i][j], j + 1 == columns ? width : lanes);
    }
  }
}

// Rows of a panel of `columns` vectors in blocks of `rows`, then the rest in smaller ones.
template <int rows, int columns>
VENEER_INLINE void panel(const ThinProduct& call, int64_t column, int64_t width, int64_t i = 0) {
  for (; i + rows <= call.m; i += rows) {
    block<rows, columns>(call, call.left + i * call.left_row, call.right + column, call.out + i * call.out_row + column,
                         width);
  }
  if constexpr (rows > 1) panel<rows / 2, columns>(call, column, width, i);
}

// As many sums as the sixteen registers of AVX2 hold beside what is multiplied.
constexpr int64_t widest = 3 * lanes;
// Rows of `right` that are taken at once: their panel then has room in the first-level cache, where every block of rows
// reads it again.
constexpr int64_t deepest = 256;

// Columns [column, column + width) of `right`, one row after another: rows far apart would share few sets of the cache.
VENEER_INLINE void pack(const ThinProduct& call, int64_t column, int64_t width, float* panel) {
  for (int64_t k = 0; k < call.k; ++k) {
    for (int64_t j = 0; j < width; j += lanes) {
      Vector v;
      load(v, call.right + k * call.right_row + column + j);
      store(panel + k * widest + j, v);
    }
  }
}

template <int rows, int columns>
VENEER_INLINE void packed_panel(ThinProduct call, int64_t column, float* space) {
  constexpr int64_t enough_rows = 12, enough_depth = 12;
  if (call.right_row > widest && call.m >= enough_rows && call.k >= enough_depth) {
    pack(call, column, columns * lanes, space);
    call.right = space - column;
    call.right_row = widest;
  }
  panel<rows, columns>(call, column, lanes);
}

VENEER_INLINE void run(const ThinProduct& whole) {
  alignas(64) float space[deepest * widest];
  for (int64_t k = 0; k < whole.k || k == 0; k += deepest) {
    ThinProduct call = whole;
    call.left += k * whole.left_column;
    call.right += k * whole.right_row;
    call.k = whole.k - k < deepest ? whole.k - k : deepest;
    call.accumulate = whole.accumulate || k > 0;
    int64_t column = 0;
    for (; column + 3 * lanes <= call.n; column += 3 * lanes) packed_panel<4, 3>(call, column, space);
    for (; column + 2 * lanes <= call.n; column += 2 * lanes) packed_panel<4, 2>(call, column, space);
    for (; column + lanes <= call.n; column += lanes) packed_panel<8, 1>(call, column, space);
    if (column < call.n) panel<8, 1>(call, column, call.n - column);
  }
}

VENEER_CLONES void cloned(const ThinProduct& call) { run(call); }

}  // namespace

void thin_product(const ThinProduct& call) { cloned(call); }

}  // namespace veneer::kernels::cpu
