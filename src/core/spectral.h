// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Fast products with matrices that Fourier transforms diagonalise. Signals lie along the last dimension; spectra are
// complex, in float32 at least; everything is differentiable, and any length works.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/circulant_rows.h"
#include "core/row_convolution.h"
#include "veneer/matrix.h"

namespace veneer {

// x padded with zeros at the end of its last dimension, or cut there, to n.
at::Tensor resized(const at::Tensor& x, int64_t n);

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
  // The gradient of the spectrum s from that of y = signal(x * s), of spectra x and dy: conj(x) * dy times these
  // weights, of a spectrum's length. (A half spectrum's inner bins count twice.)
  at::Tensor weights(const at::Tensor& spectrum) const;
  // That gradient of spectra x and dy [N, *, k], which may be broadcast, summed over rows: [*, k].
  at::Tensor correlation(const at::Tensor& x, const at::Tensor& dy) const;
  // The same from c, the gradient of the signal that x is convolved with.
  at::Tensor gradient(const at::Tensor& c) const;
  // Rows x [N, up to n] convolved, [N, width] in x's dtype; and from dy the gradients of x (undefined unless wanted)
  // and of the spectrum. Tiles of rows on a CPU serve where `tiled`, and no gradient is recorded.
  at::Tensor product(const at::Tensor& x, const at::Tensor& spectrum, int64_t width) const;
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& spectrum,
                                   bool wants_x) const;
  bool tiled(const at::Tensor& x) const { return cpu::takes_circulant(x, sizes(n_, n_)); }
  // The matrix [*, n, n] that convolves with c [*, n]: its first column is c.
  at::Tensor dense(const at::Tensor& c) const;

 private:
  at::Tensor twist(const at::Tensor& like) const;  // e^(i pi j / n) for j < n / 2
  cpu::CirculantShape sizes(int64_t d_in, int64_t d_out) const { return {1, 1, n_, d_in, d_out, negacyclic_}; }

  int64_t n_;
  bool negacyclic_;
  at::Tensor twist_, wide_twist_;  // on the CPU, where one is needed: complex numbers of float32 and of float64
};

// base + scale * M, of a matrix of low displacement rank, without products of matrices: from its own products and from
// what it grows by along its diagonals, M[i, j] - M[i - 1, j - 1] = (left right)[i, j] for i, j > 0, left [d_out or
// more, k] and right [k, d_in or more] in float32 or float64. In base's dtype, or without a base [d_out, d_in] in
// theirs. Not differentiable; where `grows`.
bool grows(const at::Tensor& like);
at::Tensor grown(const Matrix& matrix, const at::Tensor& left, const at::Tensor& right, at::TensorList prepared,
                 const at::Tensor& base, double scale);

// Products with the Toeplitz matrix T[i, j] = t[i - j + d_in - 1] of diagonals t [d_out + d_in - 1].
class Toeplitz {
 public:
  Toeplitz(int64_t d_in, int64_t d_out);

  at::Tensor dense(const at::Tensor& t) const;                                 // [d_out, d_in]
  at::Tensor spectrum(const at::Tensor& t) const;                              // of t, once
  at::Tensor product(const at::Tensor& x, const at::Tensor& spectrum) const {  // x [N, d_in] -> x T^T [N, d_out]
    return convolution_.product(x, spectrum, d_out_);
  }
  // The gradients of x (undefined unless wanted) and of the spectrum.
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& spectrum,
                                   bool wants_x) const {
    return convolution_.pullback(x, dy, spectrum, wants_x);
  }
  // Whether both go through rows like x [N, *] themselves; not where T is narrow, and multiplied dense.
  bool tiled(const at::Tensor& x) const;
  // With the circulant matrix that T is a corner of.
  const Convolution& convolution() const { return convolution_; }

 private:
  int64_t d_in_, d_out_;
  Convolution convolution_;
};

// Families of block matrices [m * g, q * g] whose g x g blocks are circulant, cut to d_out x d_in. Prepared is the
// spectrum [m, q, g/2 + 1] of the blocks' first columns.
class CirculantBlocks : public Matrix {
 public:
  CirculantBlocks(const MatrixSite& site, int64_t g);

  at::Tensor dense(const Params& params) const final;
  Form form() const final { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const final;
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const final;
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const final;
  bool tiled(const at::Tensor& x) const final { return cpu::takes_circulant(x, sizes()); }

 protected:
  std::vector<int64_t> shape() const { return {m_, q_, g_}; }
  // The blocks' first columns, m q g numbers in this order.
  virtual at::Tensor columns(const Params& params) const = 0;

 private:
  // One block, which a kernel of a GPU multiplies; blocks that one of a CPU does.
  bool on_device(const at::Tensor& x) const;
  bool on_cpu(const at::Tensor& x) const;
  cpu::CirculantShape sizes() const { return {m_, q_, g_, d_in(), d_out()}; }

  int64_t m_, q_, g_;
};

}  // namespace veneer
