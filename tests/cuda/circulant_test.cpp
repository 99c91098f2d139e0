// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/circulant.h"

#include <complex>

#include "support.h"

namespace {

using namespace kernel_test;
using namespace veneer::kernels::cuda;
using veneer::kernels::Complex;
using Spectrum = std::vector<std::complex<double>>;

template <class T>
class Circulant : public ::testing::Test {};
using Types = ::testing::Types<float, Bf16, Fp16>;
TYPED_TEST_SUITE(Circulant, Types);

// By the definition where d is small or odd, by halves otherwise.
Spectrum fft(const Spectrum& x, double sign) {
  const size_t d = x.size();
  const auto root = [&](size_t j) {
    return std::polar(1.0, sign * 2 * M_PI * static_cast<double>(j % d) / static_cast<double>(d));
  };
  Spectrum y(d);
  if (d % 2 != 0 || d < 4) {
    for (size_t k = 0; k < d; ++k) {
      for (size_t j = 0; j < d; ++j) y[k] += x[j] * root(j * k);
    }
    return y;
  }
  Spectrum even(d / 2), odd(d / 2);
  for (size_t j = 0; j < d / 2; ++j) even[j] = x[2 * j], odd[j] = x[2 * j + 1];
  even = fft(even, sign), odd = fft(odd, sign);
  for (size_t k = 0; k < d; ++k) y[k] = even[k % (d / 2)] + root(k) * odd[k % (d / 2)];
  return y;
}

Spectrum fft_of_row(const std::vector<double>& x, int64_t row, int64_t d) {
  return fft(Spectrum(x.begin() + row * d, x.begin() + (row + 1) * d), -1);
}

// What the memory of a half spectrum has, and a spectrum's half as numbers in a row.
std::vector<double> halved(const Spectrum& spectrum) {
  std::vector<double> numbers;
  for (size_t k = 0; k <= spectrum.size() / 2; ++k)
    numbers.insert(numbers.end(), {spectrum[k].real(), spectrum[k].imag()});
  return numbers;
}

template <class T>
void convolve(int64_t n, int64_t d, bool with_dx) {
  SCOPED_TRACE(testing::Message() << n << " x " << d << " dx " << with_dx);
  ASSERT_TRUE(circulant_supported(d));
  Random random(7);
  const auto x = random.numbers<T>(n * d), dy = random.numbers<T>(n * d);
  const auto filter = random.numbers<float>(d, 1 / std::sqrt(static_cast<double>(d)));
  const Spectrum w = fft_of_row(filter, 0, d);
  const Memory<T> x_memory(x), dy_memory(dy), y(n * d), dx(n * d);
  const Memory<float> spectrum(halved(w)), dspectrum(2 * (d / 2 + 1));
  const Memory<uint8_t> workspace(static_cast<int64_t>(circulant_workspace(n, d)));
  const auto complex = [](const Memory<float>& memory) { return reinterpret_cast<Complex*>(memory.data()); };
  const CirculantProduct<T> product{x_memory.data(), complex(spectrum), y.data(), n, d};
  ASSERT_EQ(circulant_product(product, nullptr), 0);
  const CirculantGradients<T> gradients{x_memory.data(),
                                        dy_memory.data(),
                                        complex(spectrum),
                                        with_dx ? dx.data() : nullptr,
                                        complex(dspectrum),
                                        workspace.data(),
                                        n,
                                        d};
  ASSERT_EQ(circulant_gradients(gradients, nullptr), 0);

  std::vector<double> want_y(n * d), want_dx(n * d);
  Spectrum sum(d);
  for (int64_t row = 0; row < n; ++row) {
    Spectrum of_x = fft_of_row(x, row, d), of_dy = fft_of_row(dy, row, d);
    for (int64_t k = 0; k < d; ++k) {
      sum[k] += std::conj(of_x[k]) * of_dy[k];
      of_x[k] *= w[k] / static_cast<double>(d);
      of_dy[k] *= std::conj(w[k]) / static_cast<double>(d);
    }
    of_x = fft(of_x, 1), of_dy = fft(of_dy, 1);
    for (int64_t j = 0; j < d; ++j) want_y[row * d + j] = of_x[j].real(), want_dx[row * d + j] = of_dy[j].real();
  }
  EXPECT_TRUE(near(y.read(), want_y, precision<T>() + 1e-6));
  EXPECT_TRUE(near(dspectrum.read(), halved(sum), 1e-5));
  if (with_dx) {
    EXPECT_TRUE(near(dx.read(), want_dx, precision<T>() + 1e-6));
  }
}

TYPED_TEST(Circulant, RowsOfAnySize) {
  with_seeds([] {
    for (const auto& [n, d] : {std::pair<int64_t, int64_t>{1, 1}, {1, 2}, {3, 7}, {5, 35}, {40, 96}, {23, 210}}) {
      for (const bool with_dx : {true, false}) convolve<TypeParam>(n, d, with_dx);
    }
  });
}

// Sizes that have a plan of their own; an odd number of rows, and more tiles than groups of threads.
TYPED_TEST(Circulant, RowsOfPlannedSizes) {
  for (const auto& [n, d] :
       {std::pair<int64_t, int64_t>{75, 768}, {37, 1024}, {21, 2048}, {11, 4096}, {9, 5120}, {9, 8192}}) {
    convolve<TypeParam>(n, d, n % 3 != 0);
  }
}

TYPED_TEST(Circulant, NoRows) { convolve<TypeParam>(0, 768, true); }

}  // namespace
