// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the GPU's transforms are made of, run on the host against the definition in float64: butterflies of every size,
// passes in place, and the order in which they leave a spectrum.
#include "kernels/fft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <numbers>
#include <random>
#include <type_traits>
#include <vector>

namespace veneer::kernels {
namespace {

using Exact = std::complex<double>;

std::vector<Complex> random(int64_t count) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<Complex> values(static_cast<size_t>(count));
  for (Complex& value : values) value = {normal(generator), normal(generator)};
  return values;
}

std::vector<Exact> transformed(const std::vector<Complex>& z) {
  const size_t n = z.size();
  std::vector<Exact> result(n);
  for (size_t k = 0; k < n; ++k) {
    for (size_t j = 0; j < n; ++j) {
      const double turns = static_cast<double>(j * k % n) / static_cast<double>(n);
      result[k] += Exact(z[j].re, z[j].im) * std::polar(1.0, -2.0 * std::numbers::pi * turns);
    }
  }
  return result;
}

void expect_near(const Complex& got, const Exact& expected, double tolerance) {
  EXPECT_NEAR(got.re, expected.real(), tolerance);
  EXPECT_NEAR(got.im, expected.imag(), tolerance);
}

template <class Radix>
class Butterflies : public testing::Test {};
template <int N>
using Of = std::integral_constant<int, N>;
using Radixes = testing::Types<Of<1>, Of<2>, Of<3>, Of<4>, Of<5>, Of<7>, Of<8>, Of<16>, Of<20>, Of<32>>;
TYPED_TEST_SUITE(Butterflies, Radixes);

TYPED_TEST(Butterflies, AreTheDefinition) {
  constexpr int N = TypeParam::value;
  const auto z = random(N);
  const auto expected = transformed(z);
  Complex v[N];
  std::copy(z.begin(), z.end(), v);
  dft<N>(v);
  for (size_t k = 0; k < N; ++k) expect_near(v[k], expected[k], 4e-6 * N);
  inverse_dft<N>(v);
  for (size_t j = 0; j < N; ++j) expect_near(v[j], Exact(z[j].re, z[j].im) * double{N}, 4e-6 * N * N);
}

template <bool inverse>
void run_pass(Complex* z, int radix, int length, int d) {
  for (int i = 0; i < d / radix; ++i) any_butterfly<inverse>(z, i, radix, length);
}

TEST(Passes, LeaveTheSpectrumInTheirOrder) {
  for (const int d : {1, 2, 3, 5, 6, 7, 12, 30, 49, 64, 105, 384, 768, 1000, 1536}) {
    SCOPED_TRACE(d);
    const Radices radices = radices_of(d);
    ASSERT_TRUE(radices.complete);
    auto z = random(d);
    const auto before = z;
    const auto expected = transformed(z);
    int length = d;
    for (int pass = 0; pass < radices.count; length /= radices.radix[pass++]) {
      run_pass<false>(z.data(), radices.radix[pass], length, d);
    }
    std::vector<bool> seen(static_cast<size_t>(d));
    for (int place = 0; place < d; ++place) {
      const auto k = static_cast<size_t>(frequency(radices, d, place));
      ASSERT_LT(k, seen.size());
      EXPECT_FALSE(seen[k]);
      seen[k] = true;
      expect_near(z[static_cast<size_t>(place)], expected[k], 2e-5 * std::sqrt(d));
    }
    for (int pass = radices.count - 1; pass >= 0; --pass) {
      length *= radices.radix[pass];
      run_pass<true>(z.data(), radices.radix[pass], length, d);
    }
    for (size_t j = 0; j < z.size(); ++j) expect_near(z[j], Exact(before[j].re, before[j].im) * double(d), 2e-5 * d);
  }
}

TEST(Passes, RefuseOtherPrimes) {
  for (const int64_t d : {11, 26, 127, 768 * 11}) EXPECT_FALSE(radices_of(d).complete);
}

}  // namespace
}  // namespace veneer::kernels
