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
  const auto x = random.numbers<T>(c.n * c.d), factor = random.numbers<T>(c.r * c.d), left = random.numbers<T>(c.n * c.r);
  const Memory<T> x_memory(x), factor_memory(factor), left_memory(left), h(c.n * c.r), sums_t(c.r * c.d);
  const Memory<float> sums(c.r * c.d);
  const Memory<int64_t> seeds(std::vector<double>{seed});
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
    EXPECT_TRUE(near(h.read(), want, 2 * precision<T>()));
  }
  if (call.left != nullptr) {
    std::vector<double> want(c.r * c.d);
    for (int64_t i = 0; i < c.n; ++i) {
      for (int64_t k = 0; k < c.r; ++k) {
        for (int64_t j = 0; j < c.d; ++j) {
          want[turned ? j * c.r + k : k * c.d + j] += 0.25 * left[i * c.r + k] * masked[i * c.d + j];
        }
      }
    }
    EXPECT_TRUE(near(rounded_sums ? sums_t.read() : sums.read(), want, rounded_sums ? 2 * precision<T>() : 1e-5));
  }
}

TYPED_TEST(ThinProducts, Reduction) {
  with_seeds([] {
    for (const Case& c : {Case{1, 8, 1, false}, Case{67, 520, 8, false}, Case{130, 512, 16, true}, Case{33, 1032, 17, true},
                          Case{300, 1024, 32, true}}) {
      for (const bool both : {false, true}) {
        for (const bool turned : {false, true}) reduce<TypeParam>(c, both, turned, turned);
      }
    }
    reduce<TypeParam>({70, 264, 64, true}, false, false, false);
    reduce<TypeParam>({70, 264, 40, true}, false, true, true);
  });
}

}  // namespace
