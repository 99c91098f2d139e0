// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/spectral.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numbers>

#include "core/products.h"
#include "device/circulant.h"
#include "device/columns.h"
#include "device/plain.h"
#include "kernels/cpu/conjugate_products.h"
#include "kernels/cpu/diagonal_growth.h"
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

// Elsewhere than on the CPU a copy from there would cost more than the numbers.
at::Tensor Convolution::twist(const at::Tensor& like) const {
  if (!like.is_cpu()) return half_turn(n_, like.device(), at::toComplexType(like.scalar_type()));
  return like.scalar_type() == at::kDouble ? wide_twist_ : twist_;
}

at::Tensor Convolution::correlation(const at::Tensor& x, const at::Tensor& dy) const {
  const bool simple = x.is_cpu() && x.sizes() == dy.sizes() && x.is_contiguous() && dy.is_contiguous() &&
                      !x.is_conj() && !dy.is_conj() && !at::GradMode::is_enabled();
  if (!simple) return (x.conj() * dy).sum(0) * weights(dy);
  const at::Tensor sums = at::zeros(x.sizes().slice(1), x.options());
  const auto sum = [&]<class T>(T) {
    kernels::cpu::conjugate_products(static_cast<const T*>(x.const_data_ptr()),
                                     static_cast<const T*>(dy.const_data_ptr()),
                                     static_cast<T*>(sums.mutable_data_ptr()), x.size(0), sums.numel());
  };
  x.scalar_type() == at::kComplexDouble ? sum(double()) : sum(float());
  return sums * weights(dy);
}

at::Tensor resized(const at::Tensor& x, int64_t n) {
  const int64_t size = x.sym_size(-1).guard_int(__FILE__, __LINE__);  // of features: size() would fix the rows' too
  if (size == n) return x;
  return size < n ? at::constant_pad_nd(x, {0, n - size}) : x.narrow(-1, 0, n);
}

bool grows(const at::Tensor& like) { return like.is_cpu() || device::on_gpu(like); }

at::Tensor grown(const Matrix& matrix, const at::Tensor& left, const at::Tensor& right, at::TensorList prepared,
                 const at::Tensor& base, double scale) {
  const at::Tensor in = at::eye(1, matrix.d_in(), left.options()), out = at::eye(1, matrix.d_out(), left.options());
  const at::Tensor column = matrix.product(in, prepared).squeeze(0);
  const at::Tensor row = matrix.pullback(in, out, prepared, true)[0].squeeze(0);
  const int64_t rows = matrix.d_out(), columns = matrix.d_in();
  const at::Tensor l = left.narrow(0, 0, rows), r = right.narrow(1, 0, columns);
  if (!left.is_cpu()) {
    const at::Tensor m = at::matmul(l, r).contiguous();
    m.select(1, 0).copy_(column);
    m.select(0, 0).copy_(row);
    device::diagonal_sums(m);
    return base.defined() ? base.add(as(m, base), scale) : m;
  }
  // The first places of the diagonals, from the last row's to the last column's.
  const at::Tensor sums = at::cat({column.flip(0), row.narrow(0, 1, columns - 1)}).to(at::kDouble);
  const at::Tensor wide_l = l.to(at::kDouble).contiguous(), wide_r = r.to(at::kDouble).contiguous();
  const at::Tensor whole = base.defined() ? as(base, left).contiguous() : base;
  const at::Tensor result = at::empty({rows, columns}, left.options());
  const auto grow = [&]<class T>(T) {
    const kernels::cpu::DiagonalGrowth<T> call{rows,
                                               columns,
                                               l.size(1),
                                               wide_l.const_data_ptr<double>(),
                                               wide_r.const_data_ptr<double>(),
                                               whole.defined() ? whole.const_data_ptr<T>() : nullptr,
                                               scale,
                                               result.mutable_data_ptr<T>()};
    constexpr int64_t grain = 64;
    at::parallel_for(0, sums.numel(), grain, [&](int64_t begin, int64_t end) {
      kernels::cpu::diagonal_growth(call, sums.mutable_data_ptr<double>(), begin, end);
    });
  };
  left.scalar_type() == at::kDouble ? grow(double()) : grow(float());
  return base.defined() ? as(result, base) : result;
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

at::Tensor Convolution::weights(const at::Tensor& spectrum) const {
  const auto options = spectrum.options().dtype(at::toRealValueType(spectrum.scalar_type()));
  if (negacyclic_ && n_ % 2 == 0) return at::full({n_ / 2}, 2.0 / static_cast<double>(n_), options);
  const at::Tensor w = at::full({n_ / 2 + 1}, 2.0 / static_cast<double>(n_), options);
  w.narrow(0, 0, 1).mul_(0.5);
  if (n_ % 2 == 0) w.narrow(0, n_ / 2, 1).mul_(0.5);
  return w;
}

at::Tensor Convolution::gradient(const at::Tensor& c) const {
  const at::Tensor s = spectrum(c);
  return s * weights(s);
}

at::Tensor Convolution::product(const at::Tensor& x, const at::Tensor& spectrum, int64_t width) const {
  if (!at::GradMode::is_enabled() && tiled(x)) {
    return cpu::circulant_product(x, signal(spectrum), sizes(x.size(1), width));
  }
  return as(resized(signal(this->spectrum(x) * spectrum), width), x);
}

std::vector<at::Tensor> Convolution::pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& spectrum,
                                              bool wants_x) const {
  if (!at::GradMode::is_enabled() && tiled(x)) {
    const auto shape = sizes(x.size(1), dy.size(1));
    const auto [dx, c] = cpu::circulant_gradients(x, dy, signal(spectrum), shape, wants_x);
    return {dx, gradient(c.view({-1}))};
  }
  const at::Tensor g = this->spectrum(dy);
  at::Tensor dx;
  if (wants_x) dx = resized(signal(g * spectrum.conj()), x.size(1));
  return {dx, correlation(this->spectrum(x), g)};
}

// Row i is a window of the diagonals, from the last to the first, that starts at n - 1 - i.
at::Tensor Convolution::dense(const at::Tensor& c) const {
  const at::Tensor above = c.narrow(-1, 1, n_ - 1);
  return at::cat({negacyclic_ ? -above : above, c}, -1).flip(-1).unfold(-1, n_, 1).flip(-2);
}

Toeplitz::Toeplitz(int64_t d_in, int64_t d_out)
    : d_in_(d_in), d_out_(d_out), convolution_(fast_length(d_in + d_out - 1)) {}

at::Tensor Toeplitz::dense(const at::Tensor& t) const { return t.flip(0).unfold(0, d_in_, 1).flip(0); }

at::Tensor Toeplitz::spectrum(const at::Tensor& t) const {
  // The circulant's first column: the diagonals from the main one down, zeros, and those above it.
  const at::Tensor down = resized(t.narrow(0, d_in_ - 1, d_out_), convolution_.length() - d_in_ + 1);
  return convolution_.spectrum(at::cat({down, t.narrow(0, 0, d_in_ - 1)}));
}

bool Toeplitz::tiled(const at::Tensor& x) const {
  return std::min(d_in_, d_out_) > narrow_side && convolution_.tiled(x);
}

CirculantBlocks::CirculantBlocks(const MatrixSite& site, int64_t g)
    : Matrix(site), m_((site.d_out + g - 1) / g), q_((site.d_in + g - 1) / g), g_(g) {}

at::Tensor CirculantBlocks::dense(const Params& params) const {
  const at::Tensor blocks = Convolution(g_).dense(columns(params).reshape(shape()));  // [m, q, u, v]
  return blocks.transpose(1, 2).reshape({m_ * g_, q_ * g_}).narrow(0, 0, d_out()).narrow(1, 0, d_in());
}

std::vector<at::Tensor> CirculantBlocks::prepare(const Params& params) const {
  return {Convolution(g_).spectrum(columns(params).reshape(shape()))};
}

namespace {

// Spectra [N, from, k] through those of blocks, [to, from, k], to [N, to, k].
at::Tensor mixed(const at::Tensor& signal, const at::Tensor& blocks) {
  if (blocks.size(1) == 1) return signal * blocks.squeeze(1);
  if (blocks.size(0) == 1) return (signal * blocks.squeeze(0)).sum(1, /*keepdim=*/true);
  return at::einsum("nqk,mqk->nmk", {signal, blocks});
}

// The blocks' gradient [m, q, k] from the spectra x [N, q, k] and g [N, m, k].
at::Tensor correlated(const at::Tensor& x, const at::Tensor& g, const Convolution& cyclic) {
  if (x.size(1) == 1 || g.size(1) == 1) {
    const at::Tensor sum = cyclic.correlation(x, g);  // [m or q, k]
    return g.size(1) == 1 ? sum.unsqueeze(0) : sum.unsqueeze(1);
  }
  return at::einsum("nqk,nmk->mqk", {x.conj(), g}) * cyclic.weights(g);
}

// The same from signals x [N, q, g] and dy [N, m, g] of a short length g: the transform is a product with its matrix,
// which gives spectra frequency by frequency, and the sums are products of small matrices.
constexpr int64_t short_length = 128;
at::Tensor correlated_short(const at::Tensor& x, const at::Tensor& dy, const Convolution& cyclic) {
  const int64_t length = x.size(2);
  const at::Tensor u = wide(x), v = wide(dy);
  const at::Tensor f = at::view_as_real(cyclic.spectrum(at::eye(length, u.options())));  // [g, k, 2]
  const at::Tensor rows = f.permute({2, 1, 0}).reshape({-1, length});                    // [2 k, g]
  const auto spectra = [&](const at::Tensor& signal) {                                   // [2, k, N, q or m]
    const at::Tensor all = at::mm(rows, signal.reshape({-1, length}).t());
    return all.view({2, -1, signal.size(0), signal.size(1)}).unbind(0);
  };
  const auto s = spectra(u), g = spectra(v);
  const at::Tensor re = at::bmm(g[0].transpose(1, 2), s[0]).baddbmm_(g[1].transpose(1, 2), s[1]);
  const at::Tensor im = at::bmm(g[1].transpose(1, 2), s[0]).baddbmm_(g[0].transpose(1, 2), s[1], 1.0, -1.0);
  return at::complex(re, im).permute({1, 2, 0});  // [m, q, k]
}

}  // namespace

bool CirculantBlocks::on_device(const at::Tensor& x) const {
  return m_ == 1 && q_ == 1 && d_in() == g_ && d_out() == g_ && !at::GradMode::is_enabled() &&
         device::takes_circulant(x);
}

bool CirculantBlocks::on_cpu(const at::Tensor& x) const {
  return !at::GradMode::is_enabled() && cpu::takes_circulant(x, sizes());
}

at::Tensor CirculantBlocks::product(const at::Tensor& x, at::TensorList prepared) const {
  const Convolution cyclic(g_);
  if (on_cpu(x)) return cpu::circulant_product(x, cyclic.signal(prepared[0]), sizes());
  if (on_device(x)) return device::circulant_product(x, prepared[0]);
  const at::Tensor signal = cyclic.spectrum(resized(x, q_ * g_).unflatten(1, {q_, g_}));  // [N, q, k]
  const at::Tensor y = mixed(signal, as(prepared[0], signal));
  return as(resized(cyclic.signal(y).flatten(1, 2), d_out()), x);
}

std::vector<at::Tensor> CirculantBlocks::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                                  bool wants_x) const {
  const Convolution cyclic(g_);
  if (on_cpu(x)) {
    const auto [dx, columns] = cpu::circulant_gradients(x, dy, cyclic.signal(prepared[0]), sizes(), wants_x);
    return {dx, cyclic.gradient(columns)};
  }
  if (on_device(x)) {
    const auto [dx, sums] = device::circulant_gradients(x, dy, prepared[0], wants_x);
    return {dx, (sums * cyclic.weights(sums)).view({1, 1, -1})};
  }
  const at::Tensor in = resized(x, q_ * g_).unflatten(1, {q_, g_}), out = resized(dy, m_ * g_).unflatten(1, {m_, g_});
  if (!wants_x && m_ > 1 && q_ > 1 && g_ <= short_length) {
    const at::Tensor sum = correlated_short(in, out, cyclic);
    return {at::Tensor(), sum * cyclic.weights(sum)};
  }
  const at::Tensor signal = cyclic.spectrum(in), g = cyclic.spectrum(out);  // [N, q, k] and [N, m, k]
  at::Tensor dx;
  if (wants_x) {
    const at::Tensor back = mixed(g, as(prepared[0], g).conj().transpose(0, 1));
    dx = resized(cyclic.signal(back).flatten(1, 2), d_in());
  }
  return {dx, correlated(signal, g, cyclic)};
}

}  // namespace veneer
