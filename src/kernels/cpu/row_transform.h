// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Transforms of many real rows, for their convolutions. Sixteen rows are transformed at once: two real rows make one
// complex one, and eight of those lie in the lanes of vectors, so that every length is as fast as another and no
// shuffle is needed but where rows are read and written. Spectra stay in the order the passes leave (fft.h), and the
// two rows of a pair are never separated:
//   a convolution: Z = X1 + i X2 times the spectrum of a real signal transforms back to y1 + i y2;
//   a correlation: conj(Zx) Zy = (X1* Y1 + X2* Y2) + i (X1* Y2 - X2* Y1), and both brackets are spectra of real
//   signals, so that the real part of the signal is the sum over both rows.
// Negacyclic ones (modulo X^n + 1) are the cyclic ones of signals twisted by exp(-i pi j / n): the same holds for them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/row_passes.h"

namespace veneer::kernels::cpu {

// Of one length; immutable. A tile z is `rows` rows in either domain, [length, 2, rows / 2] numbers.
class RowTransform {
 public:
  static constexpr int64_t rows = 16;
  int64_t numbers() const { return rows * length_; }

  // Whether the length has no prime factor above 7.
  static bool takes(int64_t length);
  explicit RowTransform(int64_t length, bool negacyclic = false);

  int64_t length() const { return length_; }
  // The first `width` places of a tile from n rows, at most `rows`, of as many numbers, `stride` apart; and the rows
  // from it.
  void read(const float* x, int64_t n, int64_t width, int64_t stride, float* z) const;
  void write(const float* z, float* y, int64_t n, int64_t width, int64_t stride) const;
  // A tile transformed in place, from `width` on taken for zeros; and back, `length` times too large.
  void forward(float* z, int64_t width) const;
  void inverse(float* z) const;
  // out = or += z w, or z conj(w), w a spectrum, complex [length], in the order of the tile's; out may be z.
  void multiply(const float* z, const float* w, bool conjugate, bool accumulate, float* out) const;
  // The spectra of n real signals [length], at most `rows` / 2, in the order of the tile's: complex [n, length], times
  // `scale`; and the real parts of the signals of spectra, likewise. In a tile z.
  void spectra(const float* signals, int64_t n, float scale, float* z, float* out) const;
  void signals(const float* spectra, int64_t n, float scale, float* z, float* out) const;
  // out = the transform by `there`, of the same length, of the signals of z w, or z conj(w), their first `kept` numbers
  // and then zeros.
  void pass_on(const RowTransform& there, const float* z, const float* w, bool conjugate, int64_t kept,
               float* out) const;
  // sums += conj(x) y, each lane for itself: a tile.
  void correlate(const float* x, const float* y, float* sums) const;
  // out += the sums over the lanes of a tile: complex [length], in the tile's order.
  void add_lanes(const float* sums, float* out) const;

 private:
  const RowPass* begin() const { return passes_.data(); }
  const RowPass* end() const { return passes_.data() + passes_.size(); }
  const float* twist() const { return twist_.empty() ? nullptr : twist_.data(); }

  int64_t length_;
  std::vector<RowPass> passes_;
  std::vector<float> twist_;  // complex [length], of negacyclic ones
};

}  // namespace veneer::kernels::cpu
