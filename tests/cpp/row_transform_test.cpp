// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Transforms of sixteen rows at once against the definition in float64: lengths of one and of several passes, of pieces
// that fit a cache and that do not, cyclic and negacyclic, of rows that do not fill their tile.
#include "kernels/cpu/row_transform.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <numbers>
#include <random>
#include <vector>

namespace veneer::kernels::cpu {
namespace {

using Signal = std::vector<double>;
constexpr int64_t rows = RowTransform::rows, half = rows / 2;

struct alignas(64) Line {
  float numbers[rows];
};

struct Tile {
  explicit Tile(int64_t length) : lines(static_cast<size_t>(length)) {}
  float* data() { return lines[0].numbers; }
  std::vector<Line> lines;
};

std::vector<float> random(int64_t count, int seed) {
  std::mt19937 generator(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// c[i] = sum of a[j] b[i - j], b wrapped around, with the other sign where it is negacyclic.
Signal convolved(const Signal& a, const Signal& b, bool negacyclic) {
  const size_t n = a.size();
  Signal c(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) c[(i + j) % n] += (i + j >= n && negacyclic ? -1.0 : 1.0) * a[i] * b[j];
  }
  return c;
}

Signal row(const std::vector<float>& x, int64_t i, int64_t width, int64_t length) {
  Signal signal(static_cast<size_t>(length));
  for (int64_t k = 0; k < width; ++k) signal[static_cast<size_t>(k)] = x[static_cast<size_t>(i * width + k)];
  return signal;
}

void expect_near(const float* got, const Signal& expected, int64_t width) {
  double scale = 1e-6;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  for (int64_t k = 0; k < width; ++k) {
    ASSERT_NEAR(got[k], expected[static_cast<size_t>(k)], 1e-5 * scale) << "place " << k;
  }
}

class Transforms : public testing::TestWithParam<int64_t> {
 protected:
  const int64_t length = GetParam();

  std::vector<float> spectrum(const RowTransform& transform, const std::vector<float>& signal) const {
    Tile z(length);
    std::vector<float> w(static_cast<size_t>(2 * length));
    transform.spectra(signal.data(), 1, 1.0F / static_cast<float>(length), z.data(), w.data());
    return w;
  }
};

TEST_P(Transforms, ConvolveRows) {
  const auto filter = random(length, 1);
  const int64_t width = (2 * length + 2) / 3;
  for (const bool negacyclic : {false, true}) {
    const RowTransform transform(length, negacyclic);
    const auto w = spectrum(transform, filter);
    for (const int64_t n : {rows, int64_t{11}, int64_t{3}}) {
      const auto x = random(n * width, 2);
      Tile z(length);
      std::fill_n(z.data(), transform.numbers(), NAN);  // what is not read is not looked at
      transform.read(x.data(), n, width, width, z.data());
      transform.forward(z.data(), width);
      transform.multiply(z.data(), w.data(), /*conjugate=*/false, /*accumulate=*/false, z.data());
      transform.inverse(z.data());
      std::vector<float> y(static_cast<size_t>(n * length));
      transform.write(z.data(), y.data(), n, length, length);
      for (int64_t i = 0; i < n; ++i) {
        expect_near(y.data() + i * length,
                    convolved(row(x, i, width, length), row(filter, 0, length, length), negacyclic), length);
      }
    }
  }
}

TEST_P(Transforms, HandOneConvolutionsResultToAnother) {
  const auto filter = random(length, 3), x = random(rows * length, 4);
  const int64_t kept = (length + 1) / 2;
  for (const bool from : {false, true}) {
    for (const bool to : {false, true}) {
      const RowTransform here(length, from), there(length, to);
      const auto w = spectrum(here, filter);
      Tile z(length), out(length);
      here.read(x.data(), rows, length, length, z.data());
      here.forward(z.data(), length);
      here.pass_on(there, z.data(), w.data(), /*conjugate=*/false, kept, out.data());
      there.inverse(out.data());
      std::vector<float> y(static_cast<size_t>(rows * length));
      there.write(out.data(), y.data(), rows, length, length);
      for (int64_t i = 0; i < rows; ++i) {
        Signal expected = convolved(row(x, i, length, length), row(filter, 0, length, length), from);
        for (size_t k = 0; k < expected.size(); ++k) {
          expected[k] = static_cast<int64_t>(k) < kept ? expected[k] * static_cast<double>(length) : 0.0;
        }
        expect_near(y.data() + i * length, expected, length);
      }
    }
  }
}

TEST_P(Transforms, GiveSpectraAndSignals) {
  const auto signals = random(half * length, 5);
  for (const bool negacyclic : {false, true}) {
    const RowTransform transform(length, negacyclic);
    for (const int64_t n : {half, int64_t{3}}) {
      Tile z(length);
      std::vector<float> spectra(static_cast<size_t>(2 * n * length)), again(static_cast<size_t>(n * length));
      transform.spectra(signals.data(), n, 1.0F, z.data(), spectra.data());
      double square = 0.0, expected = 0.0;  // Parseval's
      for (const float value : spectra) square += double{value} * value;
      for (int64_t i = 0; i < n * length; ++i)
        expected += double{signals[static_cast<size_t>(i)]} * signals[static_cast<size_t>(i)];
      EXPECT_NEAR(square / (expected * static_cast<double>(length)), 1.0, 1e-5);
      transform.signals(spectra.data(), n, 1.0F / static_cast<float>(length), z.data(), again.data());
      for (int64_t i = 0; i < n; ++i) expect_near(again.data() + i * length, row(signals, i, length, length), length);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Lengths, Transforms,
                         testing::Values(1, 2, 3, 5, 7, 8, 12, 49, 64, 96, 250, 256, 343, 384, 768, 1080, 1536),
                         testing::PrintToStringParamName());

TEST(RowTransform, RefusesLargePrimes) {
  for (const int64_t length : {11, 22, 127, 769}) EXPECT_FALSE(RowTransform::takes(length));
}

}  // namespace
}  // namespace veneer::kernels::cpu
