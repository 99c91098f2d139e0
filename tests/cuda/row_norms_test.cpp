// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_norms.h"

#include <algorithm>

#include "support.h"

namespace {

using namespace kernel_test;
using namespace veneer::kernels::cuda;

template <class T>
class RowNormsOf : public ::testing::Test {};
using Types = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(RowNormsOf, Types);

struct Case {
  int64_t rows, columns, rank;
};

// Magnitudes of type M, or none.
template <class T, class M>
void norms(const Case& c, bool has_magnitudes) {
  SCOPED_TRACE(testing::Message() << c.rows << " x " << c.columns << " rank " << c.rank << " magnitudes "
                                  << has_magnitudes);
  constexpr double scale = 0.5, smallest = 1e-3;
  Random random(5);
  auto weight = random.numbers<T>(c.rows * c.columns), b = random.numbers<T>(c.rows * c.rank);
  // A row of zeros has the smallest norm.
  for (int64_t j = 0; j < c.columns; ++j) weight[(c.rows - 1) * c.columns + j] = 0;
  for (int64_t k = 0; k < c.rank; ++k) b[(c.rows - 1) * c.rank + k] = 0;
  const auto a = random.numbers<T>(c.rank * c.columns), magnitudes = random.numbers<M>(c.rows);
  const Memory<T> weight_memory(weight), a_memory(a), b_memory(b);
  const Memory<M> magnitude_memory(magnitudes);
  const Memory<float> have(c.rows), gains(c.rows);
  const RowNorms<T, M> call{weight_memory.data(),
                            c.rows,
                            c.columns,
                            a_memory.data(),
                            b_memory.data(),
                            c.rank,
                            static_cast<float>(scale),
                            static_cast<float>(smallest),
                            has_magnitudes ? magnitude_memory.data() : nullptr,
                            have.data(),
                            has_magnitudes ? gains.data() : nullptr};
  ASSERT_EQ((row_norms<T, M>(call, nullptr)), 0);
  std::vector<double> want(c.rows), want_gains(c.rows);
  for (int64_t i = 0; i < c.rows; ++i) {
    double square = 0;
    for (int64_t j = 0; j < c.columns; ++j) {
      double value = weight[i * c.columns + j];
      for (int64_t k = 0; k < c.rank; ++k) value += scale * b[i * c.rank + k] * a[k * c.columns + j];
      square += value * value;
    }
    want[i] = std::max(std::sqrt(square), smallest);
  }
  // Rounded as the magnitudes are, where there are any.
  const double rounding = has_magnitudes ? 2 * precision<M>() : 0;
  const auto norm = have.read();
  for (int64_t i = 0; i < c.rows; ++i) {
    // What cancels in the three terms is of the size of W's norm.
    EXPECT_NEAR(norm[i], want[i], (1e-4 + rounding) * want[i]) << i;
    want_gains[i] = magnitudes[i] / norm[i];
  }
  if (has_magnitudes) {
    EXPECT_TRUE(near(gains.read(), want_gains, 1e-6));
  }
}

TYPED_TEST(RowNormsOf, AWeightWithAnUpdate) {
  with_seeds([] {
    for (const Case& c : {Case{1, 8, 1}, Case{37, 72, 8}, Case{70, 1032, 16}, Case{33, 264, 17}, Case{130, 512, 32}}) {
      norms<TypeParam, TypeParam>(c, true);
      norms<TypeParam, float>(c, true);
      norms<TypeParam, float>(c, false);
    }
  });
}

TYPED_TEST(RowNormsOf, RowsScaled) {
  using T = TypeParam;
  with_seeds([] {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 8}, {37, 72}, {130, 1032}, {33, 12}, {5, 301}}) {
      Random random(6);
      const auto weight = random.numbers<T>(rows * columns), g = random.numbers<float>(rows);
      const Memory<T> weight_memory(weight), to(rows * columns);
      const Memory<float> g_memory(g);
      ASSERT_EQ(scaled_rows(weight_memory.data(), rows, columns, g_memory.data(), to.data(), nullptr), 0);
      std::vector<double> want = weight;
      for (int64_t i = 0; i < rows * columns; ++i) want[i] *= g[i / columns];
      EXPECT_TRUE(near(to.read(), want, precision<T>()));
    }
  });
}

}  // namespace
