// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rearrange.h"

#include <algorithm>

namespace veneer::kernels::cpu {

void rearrange(const Strided& m, float scale, int64_t width, float* out) {
  // As many rows as a line of the cache has numbers, which lie side by side where m is turned.
  constexpr int64_t most = 16;
  const int64_t block = m.column_stride == 1 ? 1 : most;
  for (int64_t begin = 0; begin < m.rows; begin += block) {
    const float* const from = m.numbers + begin * m.row_stride;
    float* const to = out + begin * width;
    const int64_t n = std::min(block, m.rows - begin);
    if (block == 1) {
      std::transform(from, from + m.columns, to, [scale](float number) { return scale * number; });
    } else {
      for (int64_t j = 0; j < m.columns; ++j) {
        for (int64_t i = 0; i < n; ++i) to[i * width + j] = scale * from[i * m.row_stride + j * m.column_stride];
      }
    }
    for (int64_t i = 0; i < n; ++i) std::fill(to + i * width + m.columns, to + (i + 1) * width, 0.0F);
  }
}

}  // namespace veneer::kernels::cpu
