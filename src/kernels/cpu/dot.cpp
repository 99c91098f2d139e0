// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dot.h"

#include <algorithm>

#include "kernels/cpu/vector.h"

namespace veneer::kernels::cpu {

VENEER_CLONES float dot(const float* x, const float* y, int64_t n) {
  constexpr int64_t beside = 8;  // vectors, so that none waits for the one before
  Vector sums[beside] = {}, left, right;
  int64_t i = 0;
  for (; i + beside * lanes <= n; i += beside * lanes) {
    VENEER_UNROLL
    for (int64_t k = 0; k < beside; ++k) {
      load(left, x + i + k * lanes);
      load(right, y + i + k * lanes);
      sums[k] += left * right;
    }
  }
  for (; i < n; i += lanes) {
    const int64_t width = std::min(lanes, n - i);
    load(left, x + i, width);
    load(right, y + i, width);
    sums[0] += left * right;
  }
  for (int64_t half = beside / 2; half > 0; half /= 2) {
    for (int64_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  float sum = 0;
  for (int64_t k = 0; k < lanes; ++k) sum += sums[0][k];
  return sum;
}

}  // namespace veneer::kernels::cpu
