// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/extended_product.h"

#include "support.h"

namespace {

using namespace kernel_test;
using veneer::kernels::kept;
using namespace veneer::kernels::cuda;

enum class Kind { forward, gained, turned, masked };
struct Sums {
  bool taken = false, rounded = false, plain = false, plain_bias = false;  // taken: those of `other`
  bool divided = false;                                                    // those of plain, and rounded
};
struct Case {
  Kind kind;
  int64_t rows, depth, columns, rank;
  bool bias = false;
  Sums sums = {};
  bool gained_bias = false;
};

constexpr int64_t seed = 1234567;
constexpr uint32_t threshold = 65536 / 4;
constexpr float kept_scale = 1.5F;

// left [rows, depth] right [depth, columns], or of either the other way round.
std::vector<double> product(const std::vector<double>& left, bool left_turned, const std::vector<double>& right,
                            bool right_turned, int64_t rows, int64_t depth, int64_t columns) {
  std::vector<double> to(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) {
      const double factor = left[left_turned ? k * rows + i : i * depth + k];
      const double* const from = right.data() + (right_turned ? k : k * columns);
      for (int64_t j = 0; j < columns; ++j) to[i * columns + j] += factor * from[right_turned ? j * depth : j];
    }
  }
  return to;
}

template <class T>
struct Results {
  Case c;
  Memory<T> y{c.rows * c.columns}, plain{c.kind == Kind::gained ? c.rows * c.columns : 0};
  Memory<T> rounded_of_other{c.sums.taken ? c.rank * c.columns : 0};
  Memory<float> of_other{c.sums.taken ? c.rank * c.columns : 0}, of_plain{c.sums.plain ? c.depth : 0};
  Memory<T> rounded_of_plain{c.sums.plain ? c.depth : 0};

  template <class N>
  static std::string of(const Memory<N>& memory) {
    const std::vector<N> numbers = memory.raw();
    return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(N)};
  }
  std::string bytes() const {
    return of(y) + of(plain) + of(rounded_of_other) + of(of_other) + of(of_plain) + of(rounded_of_plain);
  }
};

template <class T>
struct Operands {
  Case c;
  bool forward = c.kind == Kind::forward || c.kind == Kind::gained;
  Random random{1};
  std::vector<double> x = random.numbers<T>(c.rows * c.depth), w = random.numbers<T>(c.depth * c.columns);
  std::vector<double> h = random.numbers<T>(c.rows * c.rank), p = random.numbers<T>(c.rank * c.columns, 2);
  std::vector<double> bias = random.numbers<T>(c.columns, 4), gain = random.numbers<float>(c.columns);
  std::vector<double> other = random.numbers<T>(c.sums.taken ? c.rows * c.columns : 0);
  std::vector<double> plain = random.numbers<T>(c.sums.plain ? c.rows * c.depth : 0);
  std::vector<double> less = c.sums.plain_bias ? random.numbers<T>(c.depth) : std::vector<double>(c.depth);
  Memory<T> x_memory{x}, w_memory{w}, h_memory{h}, p_memory{p}, bias_memory{bias}, other_memory{other};
  Memory<T> plain_memory{plain}, less_memory{less};
  std::vector<double> divisors = random.numbers<float>(c.depth);
  Memory<float> gain_memory{gain}, divisor_memory{divisors};
  Memory<int64_t> seeds{std::vector<double>{seed}};

  ExtendedProduct<T> call(const Results<T>& to) const {
    ExtendedProduct<T> call{};
    call.x = x_memory.data(), call.w = w_memory.data(), call.h = h_memory.data(), call.p = p_memory.data();
    call.rows = c.rows, call.depth = c.depth, call.columns = c.columns, call.rank = c.rank;
    call.y = to.y.data(), call.forward = forward;
    if (c.bias) call.bias = bias_memory.data();
    if (c.kind == Kind::gained) call.gain = gain_memory.data(), call.plain = to.plain.data();
    call.gained_bias = c.gained_bias;
    if (c.kind == Kind::masked) call.mask = {seeds.data(), threshold}, call.kept_scale = kept_scale;
    if (c.sums.taken) call.sums.other = other_memory.data(), call.sums.of_other = to.of_other.data();
    if (c.sums.rounded) call.sums.of_other = nullptr, call.sums.rounded_of_other = to.rounded_of_other.data();
    if (c.sums.plain) call.sums.plain = plain_memory.data(), call.sums.of_plain = to.of_plain.data();
    if (c.sums.divided) {
      call.sums.plain_divisors = divisor_memory.data();
      call.sums.of_plain = nullptr, call.sums.rounded_of_plain = to.rounded_of_plain.data();
    }
    if (c.sums.plain_bias) call.sums.plain_bias = less_memory.data();
    return call;
  }
  std::vector<double> masked(std::vector<double> of) const {
    for (size_t i = 0; c.kind == Kind::masked && i < of.size(); ++i) of[i] *= kept(seed, i, threshold) ? kept_scale : 0;
    return of;
  }
  void check(const Results<T>& have) const {
    std::vector<double> y = product(x, false, w, forward, c.rows, c.depth, c.columns), plain_y;
    const auto more = masked(product(h, false, p, forward, c.rows, c.rank, c.columns));
    for (size_t i = 0; i < y.size(); ++i) {
      const double sum = y[i] + more[i], shift = c.bias ? bias[i % c.columns] : 0;
      if (c.kind == Kind::gained) plain_y.push_back(sum + shift);
      const double factor = c.kind == Kind::gained ? gain[i % c.columns] : 1;
      y[i] = c.gained_bias ? (sum + shift) * factor : sum * factor + shift;
    }
    const double rounding = 1.05 * precision<T>();  // a little more: of sums in float32
    EXPECT_TRUE(near(have.y.read(), y, rounding));
    EXPECT_TRUE(near(have.plain.read(), plain_y, rounding));
    if (c.sums.taken) {
      const auto of_other = product(h, true, masked(other), false, c.rank, c.rows, c.columns);
      EXPECT_TRUE(c.sums.rounded ? near(have.rounded_of_other.read(), of_other, rounding)
                                 : near(have.of_other.read(), of_other, 1e-5));
    }
    if (!c.sums.plain) return;
    std::vector<double> of_plain(c.sums.plain ? c.depth : 0);
    for (size_t i = 0; i < plain.size(); ++i) of_plain[i % c.depth] += x[i] * (plain[i] - less[i % c.depth]);
    if (c.sums.divided) {
      for (int64_t j = 0; j < c.depth; ++j) of_plain[j] /= divisors[j];
    }
    EXPECT_TRUE(c.sums.divided ? near(have.rounded_of_plain.read(), of_plain, rounding)
                               : near(have.of_plain.read(), of_plain, 1e-5));
  }
};

// What is expected, and the same bits whatever comes first.
template <class T>
void multiply(const Case& c, int count) {
  SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(c.kind) << " rows " << c.rows << " depth " << c.depth
                                  << " columns " << c.columns << " rank " << c.rank << " bias " << c.bias);
  const Operands<T> operands{c};
  std::string first;
  for (int one = 0; one < count; ++one) {
    SCOPED_TRACE("seed " + std::to_string(one));
    set_seed(static_cast<uint64_t>(one));
    const Results<T> results{c};
    ExtendedProduct<T> call = operands.call(results);
    const Memory<uint8_t> workspace(extended_sums_bytes(call, processors()));
    call.sums.workspace = workspace.data();
    ASSERT_EQ(extended_product(call, nullptr), 0);
    workspace.raw();  // checks what is beside it
    if (one == 0) operands.check(results), first = results.bytes();
    ASSERT_TRUE(results.bytes() == first);
  }
}

template <class T>
class ExtendedProducts : public ::testing::Test {};
using Types = ::testing::Types<Bf16, Fp16>;
TYPED_TEST_SUITE(ExtendedProducts, Types);

TYPED_TEST(ExtendedProducts, AnySize) {
  for (const Kind kind : {Kind::forward, Kind::gained, Kind::turned}) {
    const bool bias = kind != Kind::turned;
    for (const Case& c : {Case{kind, 1, 8, 8, 8}, Case{kind, 127, 72, 136, 16, bias}, Case{kind, 129, 200, 328, 24},
                          Case{kind, 300, 64, 264, 40, bias}, Case{kind, 257, 72, 120, 64, bias}}) {
      multiply<TypeParam>(c, 3);
    }
  }
  // Without an update; and a depth that is less than a block.
  for (const Kind kind : {Kind::forward, Kind::gained, Kind::turned}) {
    const bool bias = kind != Kind::turned;
    for (const Case& c : {Case{kind, 1, 8, 8, 0}, Case{kind, 127, 72, 136, 0, bias}, Case{kind, 300, 200, 264, 0}}) {
      multiply<TypeParam>(c, 2);
    }
  }
  for (const int64_t rank : {0, 16}) multiply<TypeParam>({Kind::gained, 129, 136, 200, rank, true, {}, true}, 2);
  multiply<TypeParam>({Kind::masked, 1, 8, 512, 8}, 3);
  multiply<TypeParam>({Kind::masked, 129, 200, 1024, 24}, 3);
  multiply<TypeParam>({Kind::masked, 300, 72, 512, 64}, 3);
  multiply<TypeParam>({Kind::masked, 60, 2120, 1024, 40}, 1);  // more of the depth than a tile has bits to draw
}

// Tiles are of 128, 192 or 256 columns, as leaves the least work to the busiest blocks: here one after another. Two
// blocks work side by side on 256 rows, and each pair has several tiles, more than its ring has room for.
TYPED_TEST(ExtendedProducts, SeveralTilesOfAnyWidth) {
  const int64_t rows = processors() / 2 * 512 - 141;
  for (const Kind kind : {Kind::forward, Kind::gained, Kind::turned}) {
    for (const int64_t columns : {72, 136, 200}) multiply<TypeParam>({kind, rows, 136, columns, 16}, 2);
  }
  multiply<TypeParam>({Kind::masked, rows, 136, 512, 16}, 2);
  // With a mask, the narrow tiles are for few rows.
  const int before = processors();
  set_processors(8);
  multiply<TypeParam>({Kind::masked, 250, 136, 512, 16}, 2);
  set_processors(before);
}

// Beside products that are large enough for them: several bands of eight rows of tiles, and fewer in the last one.
TEST(ExtendedProducts, Sums) {
  multiply<Bf16>({Kind::turned, 4101, 264, 512, 16, false, {true, false, true, true, true}}, 1);
  multiply<Bf16>({Kind::masked, 4099, 64, 512, 8, false, {true, false, true, false}}, 1);
  multiply<Fp16>({Kind::masked, 2053, 72, 1024, 16, false, {true, true, true, true}}, 2);
  multiply<Fp16>({Kind::turned, 8195, 64, 264, 8, false, {true, true, false, false}}, 1);
  multiply<Bf16>({Kind::turned, 4101, 264, 512, 0, false, {false, false, true, false}}, 1);
  multiply<Fp16>({Kind::turned, 2053, 72, 1032, 0, false, {false, false, true, true, true}}, 2);
}

TYPED_TEST(ExtendedProducts, WritesNothingWithoutRowsOrForWhatIsNotSupported) {
  const Memory<TypeParam> memory(64 * 512);  // all that a call points to: none of it is read
  const auto* const seeds = reinterpret_cast<const int64_t*>(memory.data());
  const auto result = [&](bool forward, const auto& change) {
    ExtendedProduct<TypeParam> call{};
    call.x = call.w = call.h = call.p = call.y = call.plain = memory.data(), call.forward = forward;
    call.rows = 64, call.depth = 64, call.columns = 512, call.rank = 16;
    change(call);
    return extended_product(call, nullptr);
  };
  for (const bool forward : {false, true}) {
    EXPECT_EQ(result(forward, [](auto& call) { call.rows = 0; }), 0);
    EXPECT_NE(result(forward, [](auto& call) { call.rows = -1; }), 0);
    EXPECT_NE(result(forward, [](auto& call) { call.depth = 12; }), 0);
    EXPECT_NE(result(forward, [](auto& call) { call.columns = 12; }), 0);
    EXPECT_NE(result(forward, [](auto& call) { call.rank = 12; }), 0);
    EXPECT_NE(result(forward, [](auto& call) { call.rank = 72; }), 0);
  }
  EXPECT_NE(result(false, [&](auto& call) { call.bias = call.x; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.gain = reinterpret_cast<const float*>(call.x); }), 0);
  EXPECT_NE(result(true, [&](auto& call) { call.mask.seed = seeds; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.mask.seed = seeds, call.columns = 264; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.mask.seed = seeds, call.rank = 0; }), 0);
  EXPECT_NE(result(true, [&](auto& call) { call.sums.other = call.x, call.rows = 4096; }), 0);
  EXPECT_NE(result(true, [&](auto& call) { call.sums.plain = call.x, call.rows = 4096; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.sums.plain = call.x, call.rows = 4095; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.sums.other = call.x, call.rows = 4096, call.rank = 0; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.sums.other = call.x, call.rows = 4095; }), 0);
  EXPECT_NE(result(false, [&](auto& call) { call.sums.other = call.x, call.rows = 4096, call.rank = 24; }), 0);
  for (const TypeParam number : memory.raw()) ASSERT_EQ(number.bits, 0xFFFF);
}

}  // namespace
