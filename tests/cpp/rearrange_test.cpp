// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/rearrange.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace veneer::kernels::cpu {
namespace {

using Numbers = std::vector<float>;

Numbers counted(int64_t count) {
  Numbers numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 1.0F);
  return numbers;
}

TEST(Rearrange, ScalesPadsAndTurns) {
  for (const int64_t rows : {1, 3, 16, 17, 37}) {
    for (const int64_t columns : {1, 5, 16, 19}) {
      for (const int64_t beyond : {0, 3}) {
        const int64_t width = columns + beyond;
        const Numbers from = counted(rows * columns);
        // As it lies, and as the transpose of what lies there.
        for (const Strided& m :
             {Strided{from.data(), rows, columns, columns, 1}, Strided{from.data(), rows, columns, 1, rows}}) {
          Numbers out(static_cast<size_t>(rows * width), -1.0F);
          rearrange(m, 0.5F, width, out.data());
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = 0; j < width; ++j) {
              const float wanted = j < columns ? 0.5F * from[i * m.row_stride + j * m.column_stride] : 0.0F;
              ASSERT_EQ(out[i * width + j], wanted) << rows << "x" << columns << " at " << i << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(Rearrange, TakesNumbersFarApart) {
  const Numbers from = counted(6 * 40);
  Numbers out(20 * 2);
  rearrange({from.data(), 20, 2, 2, 120}, 1.0F, 2, out.data());  // every second number of rows 0 and 3
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(out[2 * i], from[2 * i]);
    EXPECT_EQ(out[2 * i + 1], from[120 + 2 * i]);
  }
}

TEST(Rearrange, OfNothingWritesZerosAlone) {
  Numbers out(6, -1.0F);
  rearrange({nullptr, 2, 0, 1, 2}, 1.0F, 3, out.data());
  EXPECT_EQ(out, Numbers(6, 0.0F));
  rearrange({nullptr, 0, 3, 1, 2}, 1.0F, 3, out.data());
}

}  // namespace
}  // namespace veneer::kernels::cpu
