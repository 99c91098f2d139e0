// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Convolutions by Fourier transforms, and the matrices that are corners of them. Signals lie along the last dimension;
// spectra are complex, in float32 at least; everything is differentiable, and any length works.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/circulant_rows.h"
#include "core/limits.h"
#include "core/row_convolution.h"

namespace veneer {

// Convolution of signals of length n: cyclic (multiplication modulo X^n - 1, by a circulant matrix Z_1) or negacyclic
// (modulo X^n + 1, by a skew-circulant matrix Z_-1).
class Convolution {
 public:
  explicit Convolution(int64_t n, bool negacyclic = false);

  int64_t length() const { return n_; }
  // The same on tiles of rows of a CPU, which take some lengths.
  const cpu::RowConvolution& of_rows() const { return cpu::RowConvolution::of(n_, negacyclic_); }

  // [*, n] -> [*, n/2 + 1], or [*, n/2] for negacyclic signals of even length. Spectra of convolved signals multiply;
  // with the conjugate of one, signals are correlated (the transposed matrix). Shorter signals are padded with zeros.
  at::Tensor spectrum(const at::Tensor& x) const;
  // The signals [*, n] of spectra.
  at::Tensor signal(const at::Tensor& spectrum) const;
  // The gradient [*, n] of the signal c from that of y = x convolved with c, of spectra x and dy [N, *, k], which may
  // be broadcast: signal(conj(x) * dy), summed over rows.
  at::Tensor correlation(const at::Tensor& x, const at::Tensor& dy) const;
  // Rows x [N, up to n] convolved with c [n], [N, width] in x's dtype; and from dy the gradients of x (undefined unless
  // wanted) and of c. Tiles of rows on a CPU serve where `tiled`, and no gradient is recorded.
  at::Tensor product(const at::Tensor& x, const at::Tensor& c, int64_t width) const;
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& c, bool wants_x) const;
  bool tiled(const at::Tensor& x) const { return cpu::takes_circulant(x, sizes(n_, n_)); }
  // The matrix [*, n, n] that convolves with c [*, n]: its first column is c. And what the transposed one convolves
  // with, its first row.
  at::Tensor dense(const at::Tensor& c) const;
  at::Tensor transposed(const at::Tensor& c) const;
  // base + scale * that matrix, c [n], cut to base's sizes. Not differentiable.
  at::Tensor merged(const at::Tensor& base, const at::Tensor& c, double scale) const;

 private:
  at::Tensor diagonals(const at::Tensor& c) const;  // of that matrix, from the last row's to the last column's
  at::Tensor twist(const at::Tensor& like) const;   // e^(i pi j / n) for j < n / 2
  cpu::CirculantShape sizes(int64_t d_in, int64_t d_out) const { return {1, 1, n_, d_in, d_out, negacyclic_}; }

  int64_t n_;
  bool negacyclic_;
  at::Tensor twist_, wide_twist_;  // on the CPU, where one is needed: complex numbers of float32 and of float64
};

// Products with the Toeplitz matrix T[i, j] = t[i - j + d_in - 1] of diagonals t [d_out + d_in - 1].
class Toeplitz {
 public:
  Toeplitz(int64_t d_in, int64_t d_out);

  at::Tensor dense(const at::Tensor& t) const;                                         // [d_out, d_in]
  at::Tensor merged(const at::Tensor& base, const at::Tensor& t, double scale) const;  // base + scale * it
  at::Tensor column(const at::Tensor& t) const;  // of the circulant matrix that T is a corner of, from t
  // x [N, d_in] -> x T^T [N, d_out], by that column.
  at::Tensor product(const at::Tensor& x, const at::Tensor& column) const {
    return convolution_.product(x, column, d_out_);
  }
  // The gradients of x (undefined unless wanted) and of the column.
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& column,
                                   bool wants_x) const {
    return convolution_.pullback(x, dy, column, wants_x);
  }
  // Whether both go through rows like x [N, *] themselves; not where T is narrow, and multiplied dense.
  bool tiled(const at::Tensor& x) const { return !is_narrow(d_out_, d_in_) && convolution_.tiled(x); }
  // With that circulant matrix.
  const Convolution& convolution() const { return convolution_; }

 private:
  int64_t d_in_, d_out_;
  Convolution convolution_;
};

}  // namespace veneer
