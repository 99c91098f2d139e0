// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Kernels of which no two threads work together, and what is asked of devices.
#include "kernels/cuda/diagonal_sums.h"
#include "kernels/cuda/fitting.h"
#include "kernels/cuda/image.h"
#include "kernels/cuda/per_device.h"
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

struct Sizes {
  int64_t rows, columns, to_rows, to_columns;
};

template <class From, class T>
struct Fitted {
  Sizes sizes;
  std::vector<double> numbers;
  Memory<From> from{numbers};
  Memory<T> to{sizes.to_rows * sizes.to_columns};

  veneer::kernels::cuda::Fitting<From, T> call() const {
    return {from.data(), to.data(), sizes.rows, sizes.columns, sizes.to_rows, sizes.to_columns};
  }
  void check() const {
    std::vector<double> wanted(sizes.to_rows * sizes.to_columns);
    for (int64_t i = 0; i < sizes.rows * sizes.columns; ++i) {
      wanted[i / sizes.columns * sizes.to_columns + i % sizes.columns] = wide(rounded<T>(numbers[i]));
    }
    EXPECT_EQ(to.read(), wanted) << sizes.rows << " x " << sizes.columns << " to " << sizes.to_rows << " x "
                                 << sizes.to_columns;
  }
};

template <class From, class T>
void fit(const Sizes& first, const Sizes& second) {
  Random random(4);
  const Fitted<From, T> a{first, random.numbers<From>(first.rows * first.columns)};
  const Fitted<From, T> b{second, random.numbers<From>(second.rows * second.columns)};
  ASSERT_EQ(veneer::kernels::cuda::fit_two(a.call(), b.call(), nullptr), 0);
  a.check(), b.check();
}

template <class T>
class FitTwo : public ::testing::Test {};
using FitTypes = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(FitTwo, FitTypes);

TYPED_TEST(FitTwo, RoundsEachToNearest) {
  for (const auto& [first, second] :
       {std::pair<int64_t, int64_t>{1, 1}, {4, 1024}, {1027, 3}, {0, 5}, {6, 0}, {0, 0}, {12288, 777}}) {
    fit<float, TypeParam>({1, first, 1, first}, {1, second, 1, second});
  }
}

TYPED_TEST(FitTwo, WritesZerosBehindRowsAndColumns) {
  const auto both = [](const Sizes& first, const Sizes& second) {
    fit<TypeParam, TypeParam>(first, second);
    fit<float, TypeParam>(first, second);
  };
  both({37, 3, 37, 8}, {3, 72, 8, 72});
  both({300, 12, 300, 16}, {129, 12, 129, 16});
  both({5, 1, 5, 8}, {1, 5, 8, 5});
  both({2, 3, 4, 4}, {0, 3, 5, 4});
  both({3, 0, 3, 8}, {7, 63, 7, 64});
}

TYPED_TEST(FitTwo, RefusesLessRoom) {
  using Fitting = veneer::kernels::cuda::Fitting<float, TypeParam>;
  const Fitting nothing{};
  for (const Sizes& sizes : {Sizes{3, 4, 2, 4}, Sizes{3, 4, 3, 3}, Sizes{3, 4, 3, 6}}) {
    const Fitting call{nullptr, nullptr, sizes.rows, sizes.columns, sizes.to_rows, sizes.to_columns};
    EXPECT_NE(veneer::kernels::cuda::fit_two(call, nothing, nullptr), 0);
    EXPECT_NE(veneer::kernels::cuda::fit_two(nothing, call, nullptr), 0);
  }
}

TEST(Image, IsThere) { EXPECT_TRUE(veneer::kernels::cuda::has_image()); }

TEST(PerDevice, IsAskedOnce) {
  veneer::kernels::cuda::PerDevice answers;
  int asked = 0;
  const auto answer = [&](int device, int number) {
    return answers.of(device, [&] {
      ++asked;
      return number;
    });
  };
  EXPECT_EQ(answer(0, 5), 5);
  EXPECT_EQ(answer(1, 0), 0);
  EXPECT_EQ(answer(0, 6), 5);
  EXPECT_EQ(answer(1, 7), 0);
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(answer(2, veneer::kernels::cuda::PerDevice::unknown), veneer::kernels::cuda::PerDevice::unknown);
  EXPECT_EQ(answer(2, 3), 3);
  EXPECT_EQ(answer(1000, 3), 3);  // more than it has room for
  EXPECT_EQ(answer(1000, 4), 4);
}

}  // namespace
