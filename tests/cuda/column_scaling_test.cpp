// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/column_scaling.h"

#include "support.h"

namespace {

using namespace kernel_test;
using namespace veneer::kernels::cuda;

template <class T>
class ColumnKernels : public ::testing::Test {};
using Types = ::testing::Types<float, Bf16, Fp16>;
TYPED_TEST_SUITE(ColumnKernels, Types);

struct Shape {
  int64_t n, d;
};
// Rows are taken in packs of 16 bytes, columns in groups; the last of each is not whole.
const std::vector<Shape> shapes = {{1, 8}, {37, 72}, {130, 1032}, {300, 264}};

TYPED_TEST(ColumnKernels, Scaling) {
  using T = TypeParam;
  with_seeds([] {
    for (const auto& [n, d] : shapes) {
      for (const bool has_g : {true, false}) {
        for (const bool has_bias : {true, false}) {
          if (!has_g && !has_bias) continue;
          SCOPED_TRACE(testing::Message() << n << " x " << d << " g " << has_g << " bias " << has_bias);
          Random random(3);
          const auto y = random.numbers<T>(n * d), bias = random.numbers<T>(d), g = random.numbers<float>(d);
          const Memory<T> y_memory(y), bias_memory(bias), out(n * d);
          const Memory<float> g_memory(g);
          ColumnScaling<T> call{
              y_memory.data(), n, d, has_g ? g_memory.data() : nullptr, has_bias ? bias_memory.data() : nullptr,
              out.data()};
          ASSERT_EQ(column_scaling(call, processors(), nullptr), 0);
          std::vector<double> want = y;
          for (int64_t i = 0; i < n * d; ++i) {
            const double scale = has_g ? g[i % d] : 1, shift = has_bias ? bias[i % d] : 0;
            want[i] = y[i] * scale + (has_g ? 1 - scale : 1) * shift;
          }
          EXPECT_TRUE(near(out.read(), want, precision<T>() + 8 * precision<float>()));
          call.out = y_memory.data();  // in place
          ASSERT_EQ(column_scaling(call, processors(), nullptr), 0);
          EXPECT_EQ(y_memory.read(), out.read());
        }
      }
    }
  });
}

TYPED_TEST(ColumnKernels, Sums) {
  using T = TypeParam;
  with_seeds([] {
    for (const auto& [n, d] : shapes) {
      for (const bool scaled : {true, false}) {
        for (const bool has_bias : {true, false}) {
          SCOPED_TRACE(testing::Message() << n << " x " << d << " scaled " << scaled << " bias " << has_bias);
          Random random(4);
          const auto y = random.numbers<T>(n * d), dy = random.numbers<T>(n * d), bias = random.numbers<T>(d),
                     g = random.numbers<float>(d);
          const Memory<T> y_memory(y), dy_memory(dy), bias_memory(bias), out(n * d);
          const Memory<float> g_memory(g), sums(d);
          const Memory<uint8_t> workspace(column_sums_bytes(n, d, processors()));
          const ColumnSums<T> call{dy_memory.data(),
                                   y_memory.data(),
                                   n,
                                   d,
                                   g_memory.data(),
                                   has_bias ? bias_memory.data() : nullptr,
                                   scaled ? out.data() : nullptr,
                                   sums.data(),
                                   workspace.data()};
          ASSERT_EQ(column_sums(call, processors(), nullptr), 0);
          std::vector<double> want(d), want_scaled(n * d);
          for (int64_t i = 0; i < n * d; ++i) {
            want[i % d] += dy[i] * (y[i] - (has_bias ? bias[i % d] : 0));
            want_scaled[i] = dy[i] * g[i % d];
          }
          EXPECT_TRUE(near(sums.read(), want, 1e-5));
          if (scaled) {
            EXPECT_TRUE(near(out.read(), want_scaled, precision<T>()));
          }
        }
      }
    }
  });
}

}  // namespace
