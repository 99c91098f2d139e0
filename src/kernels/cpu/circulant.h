// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Transforms of many real rows for products with circulant matrices. Sixteen rows are transformed at once: two real
// rows make one complex one, and eight of those lie in the lanes of vectors, so that every length is as fast as another
// and no shuffle is needed but where rows are read and written. Spectra stay in the order the passes leave (fft.h), and
// the two rows of a pair are never separated:
//   a product: Z = X1 + i X2 times the spectrum of a real signal transforms back to y1 + i y2;
//   a correlation: conj(Zx) Zy = (X1* Y1 + X2* Y2) + i (X1* Y2 - X2* Y1), and both brackets are spectra of real
//   signals, so that the real part of the signal is the sum over both rows.
#pragma once

#include <cstdint>
#include <vector>

namespace veneer::kernels::cpu {

// Of one length; immutable.
class CirculantTransform {
 public:
  static constexpr int64_t rows = 16;
  // Numbers of a tile: of `rows` rows in the frequency domain.
  int64_t numbers() const { return rows * length_; }

  // Whether the length has no prime factor above 7.
  static bool takes(int64_t length);
  explicit CirculantTransform(int64_t length);

  int64_t length() const { return length_; }
  // A half spectrum [length / 2 + 1] of complex numbers, times `scale`, in the order of the transforms: complex
  // [length].
  std::vector<float> ordered(const float* half, float scale) const;
  // The half spectrum, complex, of the real part of the signal of an ordered one.
  void real_half(const float* ordered, float* half) const;

  // The tile z of n rows, at most `rows`, of `width` numbers, `stride` apart; up to the length they are zero.
  void forward(const float* x, int64_t n, int64_t width, int64_t stride, float* z) const;
  // The same back, `length` times too large; z is overwritten.
  void inverse(float* z, float* y, int64_t n, int64_t width, int64_t stride) const;
  // out = or += z w, or z conj(w), w ordered.
  void multiply(const float* z, const float* w, bool conjugate, bool accumulate, float* out) const;
  // sums += conj(x) y, each lane for itself: a tile.
  void correlate(const float* x, const float* y, float* sums) const;
  // The sum over the lanes of a tile: ordered, complex [length].
  void add_lanes(const float* sums, float* ordered) const;

 private:
  struct Pass {
    int radix;
    int64_t length;            // of the pieces that it splits
    std::vector<float> roots;  // of each place in the first part, powers 1 to radix - 1: complex
  };

  int64_t length_;
  std::vector<Pass> passes_;
  std::vector<int32_t> frequencies_;  // of the places
};

}  // namespace veneer::kernels::cpu
