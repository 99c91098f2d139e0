// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Kernels of which no two threads work together.
#include "kernels/cuda/diagonal_sums.h"
#include "kernels/cuda/narrowing.h"
#include "kernels/cuda/seeded_dropout.h"
#include "support.h"

namespace {

using namespace kernel_test;

template <class T>
class SeededDropout : public ::testing::Test {};
using DropoutTypes = ::testing::Types<float, double, Bf16, Fp16>;
TYPED_TEST_SUITE(SeededDropout, DropoutTypes);

TYPED_TEST(SeededDropout, KeepsWhatTheDefinitionKeeps) {
  using T = TypeParam;
  constexpr int64_t seed = -987654321;
  constexpr uint32_t threshold = 65536 / 10;
  for (const int64_t n : {0, 1, 511, 512, 5000}) {
    for (const int64_t first : {0, 1, 300, 1024}) {
      SCOPED_TRACE(testing::Message() << n << " from " << first);
      const auto x = Random(8).numbers<T>(n);
      const Memory<T> x_memory(x), y(n);
      const Memory<int64_t> seeds(std::vector<double>{seed});
      const veneer::kernels::SeededDropout<T> call{x_memory.data(), y.data(), n, seeds.data(), threshold, 1.25, first};
      ASSERT_EQ(veneer::kernels::cuda::seeded_dropout(call, nullptr), 0);
      std::vector<double> want = x;
      for (int64_t i = 0; i < n; ++i) {
        const auto index = static_cast<uint64_t>(first + i);
        want[i] =
            veneer::kernels::kept(static_cast<uint64_t>(seed), index, threshold) ? wide(rounded<T>(1.25 * x[i])) : 0;
      }
      EXPECT_EQ(y.read(), want);
    }
  }
}

template <class T>
class DiagonalSums : public ::testing::Test {};
using SumTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(DiagonalSums, SumTypes);

TYPED_TEST(DiagonalSums, RunDownEachDiagonal) {
  using T = TypeParam;
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {1, 70}, {70, 1}, {17, 100}, {100, 33}, {0, 5}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << columns);
    auto want = Random(9).numbers<T>(rows * columns);
    const Memory<T> m(want);
    ASSERT_EQ(veneer::kernels::cuda::diagonal_sums(m.data(), rows, columns, nullptr), 0);
    for (int64_t i = 1; i < rows; ++i) {
      for (int64_t j = 1; j < columns; ++j) want[i * columns + j] += want[(i - 1) * columns + j - 1];
    }
    EXPECT_TRUE(near(m.read(), want, precision<T>()));
  }
}

template <class T>
class NarrowTwo : public ::testing::Test {};
using NarrowTypes = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(NarrowTwo, NarrowTypes);

TYPED_TEST(NarrowTwo, RoundsEachToNearest) {
  using T = TypeParam;
  for (const auto& [first, second] :
       {std::pair<int64_t, int64_t>{1, 1}, {4, 1024}, {1027, 3}, {0, 5}, {6, 0}, {0, 0}, {12288, 777}}) {
    SCOPED_TRACE(testing::Message() << first << " and " << second);
    Random random(4);
    const auto a = random.numbers<float>(first), b = random.numbers<float>(second);
    const Memory<float> a_memory(a), b_memory(b);
    const Memory<T> to_a(first), to_b(second);
    const veneer::kernels::cuda::Narrowing<T> call{
        {a_memory.data(), b_memory.data()}, {to_a.data(), to_b.data()}, {first, second}};
    ASSERT_EQ(veneer::kernels::cuda::narrow_two(call, nullptr), 0);
    const auto wanted = [](std::vector<double> numbers) {
      for (double& number : numbers) number = wide(rounded<T>(number));
      return numbers;
    };
    EXPECT_EQ(to_a.read(), wanted(a));
    EXPECT_EQ(to_b.read(), wanted(b));
  }
}

}  // namespace
