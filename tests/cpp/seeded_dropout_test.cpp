// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The dropout kernel against the definition of its mask, element by element, in every type, in parts and by addition.
#include <cmath>
#include <limits>

#include "kernels/seeded_dropout.h"
#include "support.h"
#include "veneer/dropout.h"

namespace veneer::test {
namespace {

constexpr double p = 0.25;
constexpr uint32_t threshold = 16384;  // p * 2^16

torch::Tensor seed_of(int64_t seed) { return torch::tensor({seed}, at::kLong); }

// 1 where an element is kept, by the definition.
torch::Tensor mask(int64_t seed, int64_t n) {
  torch::Tensor result = torch::zeros(n, at::kDouble);
  for (int64_t i = 0; i < n; ++i)
    result[i] = kernels::kept(static_cast<uint64_t>(seed), static_cast<uint64_t>(i), threshold) ? 1.0 : 0.0;
  return result;
}

double unit_of(at::ScalarType type) { return type == at::kBFloat16 ? 8e-3 : type == at::kHalf ? 1e-3 : 1e-6; }

class SeededDropout : public testing::TestWithParam<at::ScalarType> {};

TEST_P(SeededDropout, IsTheDefinition) {
  for (const int64_t n : {0, 1, 255, 256, 511, 512, 513, 1531}) {
    const torch::Tensor x = noise({n}, GetParam());
    const torch::Tensor expected = (x.to(at::kDouble) / (1 - p)).to(GetParam()) * mask(7, n).to(GetParam());
    // x * (1 / (1 - p)) may round once more than x / (1 - p).
    EXPECT_TRUE(close(seeded_dropout(x, seed_of(7), p), expected, unit_of(GetParam()), 0.0)) << n;
  }
}

TEST_P(SeededDropout, PartsMakeTheWhole) {
  const int64_t n = 1531;
  const torch::Tensor x = noise({n}, GetParam()), whole = seeded_dropout(x, seed_of(7), p);
  for (const int64_t size : {1, 100, 512, 700}) {
    const torch::Tensor y = torch::full({n}, 3.0, GetParam());
    for (int64_t begin = 0; begin < n; begin += size) {
      const int64_t length = std::min(size, n - begin);
      seeded_dropout_part(y.narrow(0, begin, length), x.narrow(0, begin, length), seed_of(7), p, begin);
    }
    EXPECT_TRUE(same(y, whole)) << size;
  }
}

TEST_P(SeededDropout, DroppedIsZeroWhateverItWas) {
  for (const double value : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const torch::Tensor y = seeded_dropout(torch::full({600}, value, GetParam()), seed_of(7), p);
    EXPECT_TRUE(same(y == 0, mask(7, 600) == 0));
    EXPECT_EQ(y.isfinite().sum().item<int64_t>(), (mask(7, 600) == 0).sum().item<int64_t>());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SeededDropout, testing::Values(at::kFloat, at::kDouble, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

// Shares and correlations within five standard errors: of neighbours, of the two elements of a word, of elements of
// neighbouring blocks, of neighbouring seeds.
TEST(SeededDropoutMask, LooksIndependent) {
  const int64_t n = 512 * 4000;
  const auto dropped = [&](int64_t seed) {
    return (seeded_dropout(torch::ones(n), seed_of(seed), p) == 0).to(at::kDouble) - p;
  };
  const torch::Tensor a = dropped(7);
  const double error = 5 * std::sqrt(p * (1 - p) / static_cast<double>(n));
  EXPECT_LT(std::abs(a.mean().item<double>()), error);
  const double joint = 5 * p * (1 - p) / std::sqrt(static_cast<double>(n));
  for (const int64_t lag : {1, 2, 4, 8, 16, 255, 256, 257, 512, 1024}) {
    const double both = (a.narrow(0, 0, n - lag) * a.narrow(0, lag, n - lag)).mean().item<double>();
    EXPECT_LT(std::abs(both), joint) << lag;
  }
  for (const int64_t seed : std::vector<int64_t>{8, -7, 6, 7 + (int64_t{1} << 32)}) {
    EXPECT_LT(std::abs((a * dropped(seed)).mean().item<double>()), joint) << seed;
  }
  // Every position of a block.
  const torch::Tensor shares = a.view({-1, 512}).mean(0).abs();
  EXPECT_LT(shares.max().item<double>(), std::sqrt(p * (1 - p) / 4000.0) * 5);
}

}  // namespace
}  // namespace veneer::test
