// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/narrow_layer.h"

#include <cstring>
#include <numbers>
#include <numeric>
#include <tuple>
#include <type_traits>

#include "support.h"

namespace {

using namespace kernel_test;
using namespace veneer::kernels::cuda;
using Values = std::vector<double>;
using enum Nonlinearity;

enum class Base { none, x, other };

struct Case {
  int64_t rows, depth, m, columns;
  Nonlinearity kind;
  Base base;
  bool added;  // shift and bias: forward both, else the bias
  bool all;    // backward: also the sums that may be null
};

constexpr float first_scale = 1.25F, second_scale = 0.75F;

double activated(Nonlinearity kind, double z) {
  switch (kind) {
    case gelu: return 0.5 * z * (1 + std::erf(z / std::numbers::sqrt2));
    case gelu_tanh: return 0.5 * z * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
    case relu: return z <= 0 ? 0 : z;
    case silu: return z / (1 + std::exp(-z));
    default: return std::tanh(z);
  }
}

double slope(Nonlinearity kind, double z) {
  if (kind == relu) return z <= 0 ? 0 : 1;
  constexpr double step = 1e-4;  // an error of about 1e-8
  return (activated(kind, z + step) - activated(kind, z - step)) / (2 * step);
}

Values turned(const Values& from, int64_t rows, int64_t columns) {
  Values to(from.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
  }
  return to;
}

// [rows, columns], of left [rows, depth] and right [columns, depth]
Values product(const Values& left, const Values& right, int64_t rows, int64_t depth, int64_t columns, double scale) {
  Values to(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto row = left.begin() + i * depth;
      to[i * columns + j] = scale * std::transform_reduce(row, row + depth, right.begin() + j * depth, 0.0);
    }
  }
  return to;
}

// Over each `rows` rows of [.., columns], the last fewer.
Values sums_over(int64_t rows, const Values& of, int64_t columns) {
  const auto all = static_cast<int64_t>(of.size()) / columns;
  Values sums((all + rows - 1) / rows * columns);
  for (int64_t i = 0; i < all; ++i) {
    for (int64_t j = 0; j < columns; ++j) sums[i / rows * columns + j] += of[i * columns + j];
  }
  return sums;
}

template <class T>
struct Input : Memory<T> {
  explicit Input(const Values& of) : Memory<T>(of), values(of) {}
  Input(Random& random, int64_t count, double scale) : Input(random.numbers<T>(count, scale)) {}
  Values values;
};

template <class T>
struct Inputs {
  Inputs(const Case& c, bool forward)
      : x(random, c.rows * c.depth, 1),
        first(random, c.depth * c.m, 1 / std::sqrt(c.depth)),
        second(random, c.m * c.columns, 1 / std::sqrt(c.m)),
        shift(random, c.m, 0.5),
        bias(random, c.columns, 0.5),
        base(random, c.base == Base::other ? c.rows * c.columns : 0, 1),
        z(random, forward ? 0 : c.rows * c.m, 1.5),
        input(random, forward ? 0 : c.rows * c.columns, 1) {
    call.input = input.data();
    call.x = x.data(), call.first = first.data(), call.second = second.data(), call.z = z.data();
    if (c.added && forward) call.shift = shift.data();
    if (c.added) call.bias = bias.data();
    if (c.base != Base::none) call.base = c.base == Base::x ? x.data() : base.data();
    call.rows = c.rows, call.depth = c.depth, call.m = c.m, call.columns = c.columns;
    call.first_scale = first_scale, call.second_scale = second_scale;
    call.nonlinearity = c.kind, call.forward = forward;
  }

  Random random{1};
  Input<T> x, first, second, shift, bias, base, z, input;
  NarrowProduct<T> call{};
};

// One launch's results; what the call is not to write stays as it was made. To: of the sums, float or T.
template <class T, class To>
struct Results {
  Results(const Case& of, NarrowProduct<T> call) : c(of), sums_bytes(narrow_sums_bytes(call)) {
    const Memory<uint8_t> workspace(sums_bytes);
    if (c.columns > 0) call.y = y.data();
    if (call.forward) call.z = z.data();
    call.dz = dz.data();
    if (sums_bytes > 0) {
      std::get<NarrowSums<To>&>(std::tie(call.sums, call.rounded_sums)) = {
          up.data(), down.data(), c.all ? x_sum.data() : nullptr, c.all ? dz_sum.data() : nullptr};
      call.workspace = workspace.data();
    } else {
      call.active = active.data();
      call.dz_parts = c.all ? dz_parts.data() : nullptr;
    }
    EXPECT_EQ(narrow_product(call, nullptr), 0);
    workspace.raw();  // which looks beside it
  }

  bool same_bits(const Results& other) const {
    const auto same = [](const auto& some, const auto& others) {
      const auto left = some.raw(), right = others.raw();
      return left.empty() || std::memcmp(left.data(), right.data(), left.size() * sizeof(left[0])) == 0;
    };
    return same(y, other.y) && same(z, other.z) && same(dz, other.dz) && same(active, other.active) &&
           same(dz_parts, other.dz_parts) && same(up, other.up) && same(down, other.down) && same(x_sum, other.x_sum) &&
           same(dz_sum, other.dz_sum);
  }

  Case c;
  int64_t sums_bytes;
  Memory<T> y{c.rows * c.columns}, z{c.rows * c.m}, dz{c.rows * c.m}, active{c.rows * (c.m + 8)};
  Memory<float> dz_parts{narrow_blocks(c.rows) * c.m};
  Memory<To> up{c.depth * c.m}, down{c.m * c.columns}, x_sum{c.depth}, dz_sum{c.m};
};

// A rounding, and what kernels sum in float32, which is far less.
template <class T>
double rounding() {
  return 1.1 * precision<T>();
}

// `dz` as it is before it is rounded.
template <class T, class To>
void expect_sums(const Case& c, const Inputs<T>& in, const Values& dz, const Results<T, To>& results) {
  Values active;
  for (const double z : in.z.values) active.push_back(activated(c.kind, z));
  // In float32: one of act(z) that is rounded to the other side than here changes one term of `rows` by a part in 256.
  const double allowed = std::is_same_v<To, T> ? rounding<T>() : 1e-4;
  if (results.sums_bytes > 0) {
    for (double& value : active) value = wide(rounded<T>(value));
    const Values x = turned(in.x.values, c.rows, c.depth);
    const Values up = product(x, turned(active, c.rows, c.m), c.depth, c.rows, c.m, first_scale);
    EXPECT_TRUE(near(results.up.read(), up, allowed)) << "sums.up";
    const Values own_dz = results.dz.read();  // as it was rounded
    const Values down = product(turned(own_dz, c.rows, c.m), turned(in.input.values, c.rows, c.columns), c.m, c.rows,
                                c.columns, second_scale);
    EXPECT_TRUE(near(results.down.read(), down, allowed)) << "sums.down";
    if (!c.all) return;
    EXPECT_TRUE(near(results.x_sum.read(), sums_over(c.rows, in.x.values, c.depth), allowed)) << "sums.x";
    EXPECT_TRUE(near(results.dz_sum.read(), sums_over(c.rows, dz, c.m), allowed)) << "sums.dz";
  } else {
    for (int64_t i = 0; i < c.rows; ++i) {
      const Values beside{1, 0, 0, 0, 0, 0, 0, 0};
      active.insert(active.begin() + i * (c.m + 8) + c.m, beside.begin(), beside.end());
    }
    EXPECT_TRUE(near(results.active.read(), active, rounding<T>())) << "active";
    if (!c.all) return;
    EXPECT_TRUE(near(results.dz_parts.read(), sums_over(64, dz, c.m), 1e-4)) << "dz_parts";
  }
}

// What came of z or dz is compared, and then taken for what follows from it: a rounding to the other side, or of z near
// relu's kink, is no error. Of y more is allowed: act(z) is rounded between the products, and that may differ.
template <class T, class To>
void expect_right(const Case& c, const Inputs<T>& in, const Results<T, To>& results) {
  const bool forward = in.call.forward;
  if (is_emulated() || c.depth <= 2048) {  // not every device has clusters of 16
    const bool clusters = c.base == Base::x && !c.added && c.depth > 1024 && c.depth <= 4096 && c.depth == c.columns;
    EXPECT_EQ(results.sums_bytes > 0, !forward && clusters);
  }
  const Values first = forward ? in.first.values : turned(in.first.values, c.depth, c.m);
  const Values second = forward ? in.second.values : turned(in.second.values, c.m, c.columns);
  Values inner = product(in.x.values, first, c.rows, c.depth, c.m, first_scale);
  for (int64_t i = 0; i < c.rows * c.m; ++i) {
    if (!forward) inner[i] *= slope(c.kind, in.z.values[i]);
    if (forward && c.added) inner[i] += in.shift.values[i % c.m];
  }
  if (!forward) expect_sums(c, in, inner, results);
  const Values stored = (forward ? results.z : results.dz).read();
  EXPECT_TRUE(near(stored, inner, rounding<T>())) << (forward ? "z" : "dz");
  if (c.columns == 0) return;
  inner = stored;
  for (double& z : inner) z = forward ? wide(rounded<T>(activated(c.kind, z))) : z;
  Values y = product(inner, second, c.rows, c.m, c.columns, second_scale);
  for (int64_t i = 0; i < c.rows * c.columns; ++i) {
    if (c.base != Base::none) y[i] += (c.base == Base::x ? in.x : in.base).values[i];
    if (c.added) y[i] += in.bias.values[i % c.columns];
  }
  EXPECT_TRUE(near(results.y.read(), y, (forward ? 2 : 1) * rounding<T>())) << "y";
}

// Launches it as often, and expects the same bits each time: the emulated device goes another way, and others for Bf16.
template <class T, class To = float>
void check(const Case& c, bool forward, int times = 3) {
  SCOPED_TRACE(testing::Message() << "forward " << forward << " rows " << c.rows << " depth " << c.depth << " m " << c.m
                                  << " columns " << c.columns << " base " << static_cast<int>(c.base));
  const Inputs<T> in(c, forward);
  uint64_t seed = std::is_same_v<T, Bf16> ? 100 : 0;
  set_seed(seed);
  const Results<T, To> results(c, in.call);
  expect_right(c, in, results);
  for (int time = 1; time < times; ++time) {
    set_seed(++seed);
    EXPECT_TRUE(results.same_bits(Results<T, To>(c, in.call))) << "seed " << seed;
  }
}

// Rows of which a cluster has that many tiles of 32 where all fit at once, the last five rows short.
int64_t rows_of(int64_t tiles, int cluster) {
  const int clusters = is_emulated() ? 3 : processors() / cluster;
  return 32 * (clusters * (tiles - 1) + 1) - 5;
}

template <class T>
class NarrowLayer : public ::testing::Test {};
using Types = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(NarrowLayer, Types);

// Deep ones have another base than x, too many columns, or a bias: with that, forward is one of clusters.
TYPED_TEST(NarrowLayer, Blocks) {
  for (const Case& c : {Case{1, 8, 8, 8, gelu, Base::x, true, true},
                        {63, 72, 24, 520, gelu_tanh, Base::none, true, false},
                        {65, 200, 64, 72, relu, Base::other, false, true},
                        {200, 520, 24, 200, silu, Base::other, true, true},
                        {130, 520, 64, 520, tanh, Base::x, false, true},
                        {65, 520, 8, 72, silu, Base::none, false, false},
                        {63, 200, 64, 0, gelu, Base::none, false, true},
                        {33, 4104, 8, 4104, tanh, Base::x, false, true},
                        {70, 1032, 40, 1032, gelu_tanh, Base::other, false, false},
                        {70, 1032, 40, 1032, relu, Base::x, true, false}}) {
    for (const bool forward : {true, false}) check<TypeParam>(c, forward);
  }
}

TYPED_TEST(NarrowLayer, ForwardClusters) {
  check<TypeParam>({1, 1032, 8, 1032, tanh, Base::x, false, false}, true);
  check<TypeParam>({rows_of(8, 4), 1032, 40, 1032, gelu_tanh, Base::x, true, false}, true, 2);
  check<TypeParam>({rows_of(3, 4), 2048, 8, 2048, silu, Base::x, false, false}, true, 1);
  check<TypeParam>({rows_of(8, 8), 2056, 64, 2056, gelu, Base::x, false, false}, true, 2);
  check<TypeParam>({rows_of(2, 8), 4088, 8, 4088, relu, Base::x, true, false}, true, 1);
}

// Of ten tiles that most of the clusters have, the last has the buffer whose room is used again at the end.
TYPED_TEST(NarrowLayer, BackwardClusters) {
  check<TypeParam>({1, 1032, 8, 1032, silu, Base::x, false, true}, false);
  check<TypeParam>({rows_of(11, 8), 1032, 40, 1032, gelu, Base::x, false, true}, false, 2);
  check<TypeParam, TypeParam>({rows_of(4, 8), 2040, 64, 2040, relu, Base::x, false, true}, false, 1);
  check<TypeParam, TypeParam>({rows_of(2, 8), 1600, 24, 1600, tanh, Base::x, false, false}, false, 1);
}

// The emulated device takes seconds for each.
TYPED_TEST(NarrowLayer, BackwardClustersOfSixteen) {
  const bool many = std::is_same_v<TypeParam, Bf16>;
  many ? check<TypeParam, TypeParam>({rows_of(10, 16), 4088, 64, 4088, gelu_tanh, Base::x, false, true}, false, 1)
       : check<TypeParam>({rows_of(2, 16), 2056, 8, 2056, silu, Base::x, false, false}, false, 1);
}

TYPED_TEST(NarrowLayer, NothingWithoutRowsOrWhereSizesAreNotSupported) {
  const Inputs<TypeParam> in({8, 72, 8, 72, gelu, Base::x, false, false}, true);
  const Memory<TypeParam> y(8 * 72);
  NarrowProduct<TypeParam> call = in.call;
  call.y = y.data();
  const auto launched = [&](int64_t rows, int64_t depth, int64_t m, int64_t columns) {
    call.rows = rows, call.depth = depth, call.m = m, call.columns = columns;
    return narrow_product(call, nullptr);
  };
  EXPECT_EQ(launched(0, 72, 8, 72), 0);
  EXPECT_NE(launched(-1, 72, 8, 72), 0);
  for (const int64_t depth : {-8, 0, 68}) EXPECT_NE(launched(8, depth, 8, 72), 0) << depth;
  for (const int64_t m : {-8, 0, 4, 72}) EXPECT_NE(launched(8, 72, m, 72), 0) << m;
  for (const int64_t columns : {-8, 68}) EXPECT_NE(launched(8, 72, 8, columns), 0) << columns;
  for (const double number : y.read()) EXPECT_TRUE(std::isnan(number));
  EXPECT_TRUE(narrow_product_supported(9, 72, 0, 8));
  EXPECT_FALSE(narrow_product_supported(8, 72, 0, 8));

  // Sums that the call would take, without a place for them.
  const Inputs<TypeParam> deep({8, 1032, 8, 1032, gelu, Base::x, false, false}, false);
  EXPECT_NE(narrow_product(deep.call, nullptr), 0);
}

}  // namespace
