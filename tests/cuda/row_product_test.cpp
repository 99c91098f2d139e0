// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_product.h"

#include "support.h"

namespace {

using namespace kernel_test;
using namespace veneer::kernels::cuda;

struct Case {
  int64_t rows, depth, rank;
};

template <class T>
class RowProducts : public ::testing::Test {};
using Types = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(RowProducts, Types);

template <class T>
void multiply(const Case& c, bool turned) {
  SCOPED_TRACE(testing::Message() << "rows " << c.rows << " depth " << c.depth << " rank " << c.rank << " turned "
                                  << turned);
  Random random(1);
  const auto x = random.numbers<T>(c.rows * c.depth), factor = random.numbers<T>(c.rank * c.depth);
  const Memory<T> x_memory(x), factor_memory(factor), h(c.rows * c.rank);
  const RowProduct<T> call{x_memory.data(), c.rows, c.depth, c.rank, factor_memory.data(), turned, 0.75F, h.data()};
  ASSERT_EQ(row_product(call, nullptr), 0);
  std::vector<double> want(c.rows * c.rank);
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.rank; ++j) {
      for (int64_t k = 0; k < c.depth; ++k) {
        want[i * c.rank + j] += 0.75 * x[i * c.depth + k] * factor[turned ? k * c.rank + j : j * c.depth + k];
      }
    }
  }
  EXPECT_TRUE(near(h.read(), want, 1.05 * precision<T>()));  // a little more: of sums in float32
}

// Rows come in blocks of 64; the depth in slabs of 64 that two groups of threads share: of one, the second has none.
// From nine slabs on their ring of eight goes round.
TYPED_TEST(RowProducts, AnySize) {
  with_seeds(
      [] {
        for (const Case& c : {Case{1, 8, 8}, Case{64, 64, 64}, Case{65, 72, 16}, Case{130, 200, 24}, Case{127, 520, 40},
                              Case{63, 1096, 64}, Case{70, 1736, 56}}) {
          for (const bool turned : {false, true}) multiply<TypeParam>(c, turned);
        }
      },
      5);
}

TYPED_TEST(RowProducts, WritesNothingWithoutRowsOrForSizesThatItDoesNotTake) {
  const Memory<TypeParam> x(128 * 128), factor(128 * 128), h(128 * 128);
  const auto result = [&](int64_t rows, int64_t depth, int64_t rank, bool turned) {
    return row_product<TypeParam>({x.data(), rows, depth, rank, factor.data(), turned, 1, h.data()}, nullptr);
  };
  for (const bool turned : {false, true}) {
    EXPECT_EQ(result(0, 64, 16, turned), 0);
    EXPECT_NE(result(-1, 64, 16, turned), 0);
    EXPECT_NE(result(64, 12, 16, turned), 0);
    EXPECT_NE(result(64, 0, 16, turned), 0);
    EXPECT_NE(result(64, 64, 12, turned), 0);
    EXPECT_NE(result(64, 64, 0, turned), 0);
    EXPECT_NE(result(64, 64, 72, turned), 0);
  }
  for (const TypeParam number : h.raw()) ASSERT_EQ(number.bits, 0xFFFF);
}

TEST(RowProducts, AreSupportedWhereTheirBlocksKeepMostMultiprocessorsBusy) {
  EXPECT_TRUE(row_product_supported(9, 4, 3 * 64, 64, 16));
  EXPECT_FALSE(row_product_supported(9, 4, 2 * 64, 64, 16));
  EXPECT_FALSE(row_product_supported(9, 4, 5 * 64, 64, 16));  // a second turn, with one block
  EXPECT_TRUE(row_product_supported(9, 4, 5 * 64 + 1, 64, 16));
  EXPECT_FALSE(row_product_supported(8, 4, 4 * 64, 64, 16));
  EXPECT_FALSE(row_product_supported(9, 4, 4 * 64, 12, 16));
  EXPECT_FALSE(row_product_supported(9, 4, 4 * 64, 64, 72));
}

}  // namespace
