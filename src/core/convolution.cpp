// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/convolution.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <numbers>

#include "core/diagonals.h"
#include "core/resized.h"
#include "device/plain.h"
#include "kernels/cpu/conjugate_products.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

// The least product of 2, 3, 5 and 7 that is at least n: lengths with large prime factors are slow.
int64_t fast_length(int64_t n) {
  for (int64_t length = n;; ++length) {
    int64_t rest = length;
    for (const int64_t factor : {2, 3, 5, 7}) {
      while (rest % factor == 0) rest /= factor;
    }
    if (rest == 1) return length;
  }
}

// 1, -1, 1, ...
at::Tensor alternating(int64_t n, const at::Tensor& like) { return 1 - 2 * at::arange(n, like.options()).remainder(2); }

// e^(i pi j / n) for j < n / 2, computed in float64 and rounded once.
at::Tensor half_turn(int64_t n, const at::Device& device, at::ScalarType type) {
  const at::Tensor angle =
      at::arange(n / 2, at::dtype(at::kDouble).device(device)) * (std::numbers::pi / static_cast<double>(n));
  return at::polar(at::ones_like(angle), angle).to(type);
}

}  // namespace

Convolution::Convolution(int64_t n, bool negacyclic) : n_(n), negacyclic_(negacyclic) {
  if (!negacyclic || n % 2 != 0) return;
  wide_twist_ = half_turn(n, at::kCPU, at::kComplexDouble);
  twist_ = wide_twist_.to(at::kComplexFloat);
}

// Elsewhere than on the CPU a copy from there would cost more than the numbers, and tracers take only their own
// tensors.
at::Tensor Convolution::twist(const at::Tensor& like) const {
  if (!device::on_cpu(like)) return half_turn(n_, like.device(), at::toComplexType(like.scalar_type()));
  return like.scalar_type() == at::kDouble ? wide_twist_ : twist_;
}

at::Tensor Convolution::correlation(const at::Tensor& x, const at::Tensor& dy) const {
  const bool simple = device::on_cpu(x) && x.sizes() == dy.sizes() && x.scalar_type() == dy.scalar_type() &&
                      x.is_contiguous() && dy.is_contiguous() && !x.is_conj() && !dy.is_conj() &&
                      !at::GradMode::is_enabled();
  if (!simple) return signal((x.conj() * dy).sum(0));
  const at::Tensor sums = at::zeros(x.sizes().slice(1), x.options());
  const auto sum = [&]<class T>(T) {
    kernels::cpu::conjugate_products(static_cast<const T*>(x.const_data_ptr()),
                                     static_cast<const T*>(dy.const_data_ptr()),
                                     static_cast<T*>(sums.mutable_data_ptr()), x.size(0), sums.numel());
  };
  x.scalar_type() == at::kComplexDouble ? sum(double()) : sum(float());
  return signal(sums);
}

// Negacyclic, n even: modulo X^n + 1 a real polynomial is a complex one of half the length modulo X^(n/2) - i, by
// X^(n/2) = i; X = w Y with w = e^(i pi / n) makes that cyclic. n odd: X = -Y makes it cyclic.
at::Tensor Convolution::spectrum(const at::Tensor& x) const {
  const at::Tensor u = resized(wide(x), n_);
  if (!negacyclic_) return at::fft_rfft(u);
  if (n_ % 2 != 0) return at::fft_rfft(u * alternating(n_, u));
  const int64_t half = n_ / 2;
  return at::fft_fft(at::complex(u.narrow(-1, 0, half), u.narrow(-1, half, half)) * twist(u));
}

at::Tensor Convolution::signal(const at::Tensor& spectrum) const {
  if (!negacyclic_) return at::fft_irfft(spectrum, n_);  // without n it would return an even number of points
  if (n_ % 2 != 0) {
    const at::Tensor u = at::fft_irfft(spectrum, n_);
    return u * alternating(n_, u);
  }
  const at::Tensor z = at::fft_ifft(spectrum);
  const at::Tensor u = z * twist(at::real(z)).conj();
  return at::cat({at::real(u), at::imag(u)}, -1);
}

at::Tensor Convolution::product(const at::Tensor& x, const at::Tensor& c, int64_t width) const {
  if (!at::GradMode::is_enabled() && tiled(x)) return cpu::circulant_product(x, c, sizes(x.size(1), width));
  return as(resized(signal(spectrum(x) * spectrum(c)), width), x);
}

std::vector<at::Tensor> Convolution::pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& c,
                                              bool wants_x) const {
  if (!at::GradMode::is_enabled() && tiled(x)) {
    const auto [dx, dc] = cpu::circulant_gradients(x, dy, c, sizes(x.size(1), dy.size(1)), wants_x);
    return {dx, dc.view({-1})};
  }
  const at::Tensor g = spectrum(dy);
  at::Tensor dx;
  if (wants_x) dx = resized(signal(g * spectrum(c).conj()), x.size(1));
  return {dx, correlation(spectrum(x), g)};
}

at::Tensor Convolution::transposed(const at::Tensor& c) const {
  const at::Tensor rest = c.narrow(-1, 1, n_ - 1).flip(-1);
  return at::cat({c.narrow(-1, 0, 1), negacyclic_ ? -rest : rest}, -1);
}

at::Tensor Convolution::dense(const at::Tensor& c) const { return with_diagonals(diagonals(c), n_); }

at::Tensor Convolution::diagonals(const at::Tensor& c) const {
  const at::Tensor above = c.narrow(-1, 1, n_ - 1);
  return at::cat({negacyclic_ ? -above : above, c}, -1).flip(-1);
}

at::Tensor Convolution::merged(const at::Tensor& base, const at::Tensor& c, double scale) const {
  const int64_t rows = base.size(0), columns = base.size(1);
  return on_diagonals(base, diagonals(c).narrow(0, n_ - rows, rows + columns - 1), scale);
}

Toeplitz::Toeplitz(int64_t d_in, int64_t d_out)
    : d_in_(d_in), d_out_(d_out), convolution_(fast_length(d_in + d_out - 1)) {}

at::Tensor Toeplitz::dense(const at::Tensor& t) const { return with_diagonals(t.flip(0), d_in_); }

at::Tensor Toeplitz::merged(const at::Tensor& base, const at::Tensor& t, double scale) const {
  return on_diagonals(base, t.flip(0), scale);
}

at::Tensor Toeplitz::column(const at::Tensor& t) const {
  // The diagonals from the main one down, zeros, and those above it.
  const at::Tensor down = resized(t.narrow(0, d_in_ - 1, d_out_), convolution_.length() - d_in_ + 1);
  return at::cat({down, t.narrow(0, 0, d_in_ - 1)});
}

}  // namespace veneer
