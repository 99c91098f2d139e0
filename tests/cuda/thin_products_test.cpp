// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/thin_products.h"

#include <optional>

#include "support.h"

namespace {

using namespace kernel_test;
using veneer::kernels::kept;
using namespace veneer::kernels::cuda;

struct Case {
  int64_t n, d, r;
  bool masked;
};

constexpr int64_t seed = 1234567;
constexpr uint32_t threshold = 65536 / 4;

std::vector<double> dropped(std::vector<double> x, bool masked) {
  for (size_t i = 0; masked && i < x.size(); ++i) {
    if (!kept(seed, i, threshold)) x[i] = 0;
  }
  return x;
}

template <class T>
class ThinProducts : public ::testing::Test {};
using Types = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(ThinProducts, Types);

// A factor that lies in memory as [r, d], or the other way round.
int64_t row_of(bool turned, int64_t, int64_t d) { return turned ? 1 : d; }
int64_t column_of(bool turned, int64_t r, int64_t) { return turned ? r : 1; }

template <class T>
void reduce(const Case& c, bool both, bool turned, bool rounded_sums) {
  SCOPED_TRACE(testing::Message() << "n " << c.n << " d " << c.d << " r " << c.r << " masked " << c.masked << " both "
                                  << both << " turned " << turned);
  Random random(1);
  const auto x = random.numbers<T>(c.n * c.d), factor = random.numbers<T>(c.r * c.d),
             left = random.numbers<T>(c.n * c.r);
  const Memory<T> x_memory(x), factor_memory(factor), left_memory(left), h(c.n * c.r), sums_t(c.r * c.d);
  const Memory<float> sums(c.r * c.d);
  const Memory<int64_t> seeds(std::vector<double>{seed});
  const bool gained = turned || rounded_sums;
  const auto gain = random.numbers<float>(c.d);
  const Memory<float> gain_memory(gain);
  ThinReduction<T> call{};
  call.x = x_memory.data(), call.n = c.n, call.d = c.d, call.r = c.r;
  if (c.masked) call.mask = {seeds.data(), threshold};
  call.factor = factor_memory.data();
  call.factor_row = row_of(turned, c.r, c.d), call.factor_column = column_of(turned, c.r, c.d);
  if (both || !rounded_sums) call.h = h.data();
  call.h_scale = 0.5F;
  if (both || call.h == nullptr) {
    call.left = left_memory.data();
    rounded_sums ? call.rounded_sums = sums_t.data() : nullptr;
    rounded_sums ? nullptr : call.sums = sums.data();
  }
  call.turned = turned;
  call.sums_scale = 0.25F;
  call.sums_gain = gained ? gain_memory.data() : nullptr;
  const Memory<uint8_t> workspace(thin_reduction_bytes(call, processors()));
  call.workspace = workspace.data();
  ASSERT_EQ(thin_reduction(call, processors(), nullptr), 0);
  const auto masked = dropped(x, c.masked);
  const auto at = [&](int64_t i, int64_t j) { return factor[i * call.factor_row + j * call.factor_column]; };
  if (call.h != nullptr) {
    std::vector<double> want(c.n * c.r);
    for (int64_t i = 0; i < c.n; ++i) {
      for (int64_t k = 0; k < c.r; ++k) {
        for (int64_t j = 0; j < c.d; ++j) want[i * c.r + k] += 0.5 * masked[i * c.d + j] * at(k, j);
      }
    }
    EXPECT_TRUE(near(h.read(), want, precision<T>()));
  }
  if (call.left != nullptr) {
    std::vector<double> want(c.r * c.d);
    for (int64_t i = 0; i < c.n; ++i) {
      for (int64_t k = 0; k < c.r; ++k) {
        for (int64_t j = 0; j < c.d; ++j) {
          const double scale = 0.25 * (gained ? gain[j] : 1);
          want[turned ? j * c.r + k : k * c.d + j] += scale * left[i * c.r + k] * masked[i * c.d + j];
        }
      }
    }
    EXPECT_TRUE(near(rounded_sums ? sums_t.read() : sums.read(), want, rounded_sums ? precision<T>() : 1e-5));
  }
}

TYPED_TEST(ThinProducts, Reduction) {
  with_seeds([] {
    for (const Case& c : {Case{1, 8, 1, false}, Case{67, 520, 8, false}, Case{130, 512, 16, true},
                          Case{33, 1032, 17, true}, Case{300, 1024, 32, true}}) {
      for (const bool both : {false, true}) {
        for (const bool turned : {false, true}) reduce<TypeParam>(c, both, turned, turned);
      }
    }
    reduce<TypeParam>({70, 264, 64, true}, false, false, false);
    reduce<TypeParam>({70, 264, 40, true}, false, true, true);
  });
}

template <class T>
void expand(const Case& c, bool turned, bool with_bias, bool with_base) {
  SCOPED_TRACE(testing::Message() << "n " << c.n << " d " << c.d << " r " << c.r << " masked " << c.masked << " turned "
                                  << turned << " bias " << with_bias << " base " << with_base);
  Random random(2);
  const auto h = random.numbers<T>(c.n * c.r), factor = random.numbers<T>(c.r * c.d),
             base = random.numbers<T>(c.n * c.d), bias = random.numbers<T>(c.d);
  const Memory<T> h_memory(h), factor_memory(factor), base_memory(base), bias_memory(bias), y(c.n * c.d);
  const Memory<int64_t> seeds(std::vector<double>{seed});
  ThinExpansion<T> call{};
  call.h = h_memory.data(), call.n = c.n, call.d = c.d, call.r = c.r;
  if (c.masked) call.mask = {seeds.data(), threshold};
  call.factor = factor_memory.data();
  call.factor_row = row_of(turned, c.r, c.d), call.factor_column = column_of(turned, c.r, c.d);
  call.scale = 0.5F;
  call.bias = with_bias ? bias_memory.data() : nullptr;
  call.base = with_base ? base_memory.data() : nullptr;
  call.y = y.data();
  ASSERT_EQ(thin_expansion(call, processors(), nullptr), 0);
  std::vector<double> update(c.n * c.d);
  for (int64_t i = 0; i < c.n; ++i) {
    for (int64_t k = 0; k < c.r; ++k) {
      for (int64_t j = 0; j < c.d; ++j) {
        update[i * c.d + j] += 0.5 * h[i * c.r + k] * factor[k * call.factor_row + j * call.factor_column];
      }
    }
  }
  update = dropped(update, c.masked);
  for (int64_t i = 0; i < c.n * c.d; ++i) {  // each sum is rounded, now and then to the other side than here
    update[i] = wide(rounded<T>(update[i])) + (with_base ? base[i] : 0);
    update[i] = wide(rounded<T>(update[i])) + (with_bias ? bias[i % c.d] : 0);
  }
  EXPECT_TRUE(near(y.read(), update, 4 * precision<T>()));
}

TYPED_TEST(ThinProducts, Expansion) {
  with_seeds([] {
    for (const Case& c : {Case{1, 8, 1, false}, Case{67, 520, 8, false}, Case{130, 512, 16, true},
                          Case{33, 1032, 17, true}, Case{300, 1024, 32, true}, Case{70, 264, 64, false}}) {
      for (const bool turned : {false, true}) expand<TypeParam>(c, turned, !c.masked || turned, !c.masked && turned);
    }
    expand<TypeParam>({70, 72, 40, false}, false, false, false);
  });
}

// What is compiled apart: by rank, mask, what is wanted of a reduction, and an expansion's base.
TYPED_TEST(ThinProducts, EveryKernel) {
  for (const int64_t r : {16, 27, 61}) {
    for (const bool masked : {false, true}) {
      const Case c{45, 520, r, masked};
      reduce<TypeParam>(c, true, !masked, true);
      reduce<TypeParam>(c, false, masked, false);
      reduce<TypeParam>(c, false, masked, true);
      expand<TypeParam>(c, masked, false, false);
      if (!masked) expand<TypeParam>(c, true, true, true);
    }
  }
}

TYPED_TEST(ThinProducts, NothingWithoutRows) {
  reduce<TypeParam>({0, 64, 8, false}, false, false, false);
  expand<TypeParam>({0, 64, 8, false}, false, true, false);
}

TYPED_TEST(ThinProducts, RefuseWhatTheyCannotCount) {
  ThinExpansion<TypeParam> expansion{};
  expansion.n = (int64_t{1} << 30) + 1, expansion.d = 8, expansion.r = 1;
  EXPECT_NE(thin_expansion(expansion, processors(), nullptr), 0);
  ThinReduction<TypeParam> reduction{};
  reduction.n = 8, reduction.d = (int64_t{1} << 30) + 1, reduction.r = 1;
  EXPECT_NE(thin_reduction(reduction, processors(), nullptr), 0);
}

}  // namespace
