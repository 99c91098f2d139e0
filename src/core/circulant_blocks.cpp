// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/circulant_blocks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/convolution.h"
#include "core/resized.h"
#include "device/circulant.h"
#include "veneer/numeric.h"

namespace veneer {

CirculantBlocks::CirculantBlocks(const MatrixSite& site, int64_t g)
    : Matrix(site), m_((site.d_out + g - 1) / g), q_((site.d_in + g - 1) / g), g_(g) {}

at::Tensor CirculantBlocks::dense(const Params& params) const {
  const at::Tensor blocks = Convolution(g_).dense(columns(params).reshape(shape()));  // [m, q, u, v]
  return blocks.transpose(1, 2).reshape({m_ * g_, q_ * g_}).narrow(0, 0, d_out()).narrow(1, 0, d_in());
}

std::vector<at::Tensor> CirculantBlocks::prepare(const Params& params) const {
  return {columns(params).reshape(shape())};
}

namespace {

// Spectra [N, from, k] through those of blocks, [to, from, k], to [N, to, k].
at::Tensor mixed(const at::Tensor& signal, const at::Tensor& blocks) {
  if (blocks.size(1) == 1) return signal * blocks.squeeze(1);
  if (blocks.size(0) == 1) return (signal * blocks.squeeze(0)).sum(1, /*keepdim=*/true);
  return at::einsum("nqk,mqk->nmk", {signal, blocks});
}

// The gradient of the columns [m, q, g] from the spectra x [N, q, k] and g [N, m, k].
at::Tensor correlated(const at::Tensor& x, const at::Tensor& g, const Convolution& cyclic) {
  if (x.size(1) == 1 || g.size(1) == 1) {
    const at::Tensor sum = cyclic.correlation(x, g);  // [m or q, g]
    return g.size(1) == 1 ? sum.unsqueeze(0) : sum.unsqueeze(1);
  }
  return cyclic.signal(at::einsum("nqk,nmk->mqk", {x.conj(), g}));
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
  return cyclic.signal(at::complex(re, im).permute({1, 2, 0}));  // [m, q, g]
}

}  // namespace

bool CirculantBlocks::on_device(const at::Tensor& x) const {
  return m_ == 1 && q_ == 1 && d_in() == g_ && d_out() == g_ && !at::GradMode::is_enabled() &&
         device::takes_circulant(x);
}

bool CirculantBlocks::on_cpu(const at::Tensor& x) const {
  return !at::GradMode::is_enabled() && cpu::takes_circulant(x, sizes());
}

at::Tensor CirculantBlocks::merged(const at::Tensor& weight, const Params& params, double scale) const {
  if (m_ > 1 || q_ > 1) return Matrix::merged(weight, params, scale);
  return Convolution(g_).merged(weight, columns(params).reshape({g_}), scale);
}

at::Tensor CirculantBlocks::product(const at::Tensor& x, at::TensorList prepared) const {
  const Convolution cyclic(g_);
  if (on_cpu(x)) return cpu::circulant_product(x, prepared[0], sizes());
  const at::Tensor blocks = cyclic.spectrum(prepared[0]);  // [m, q, k]
  if (on_device(x)) return device::circulant_product(x, blocks);
  const at::Tensor signal = cyclic.spectrum(resized(x, q_ * g_).unflatten(1, {q_, g_}));  // [N, q, k]
  const at::Tensor y = mixed(signal, as(blocks, signal));
  return as(resized(cyclic.signal(y).flatten(1, 2), d_out()), x);
}

std::vector<at::Tensor> CirculantBlocks::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                                  bool wants_x) const {
  const Convolution cyclic(g_);
  if (on_cpu(x)) {
    const auto [dx, columns] = cpu::circulant_gradients(x, dy, prepared[0], sizes(), wants_x);
    return {dx, columns};
  }
  if (on_device(x)) {
    const auto [dx, sums] = device::circulant_gradients(x, dy, cyclic.spectrum(prepared[0]), wants_x);
    return {dx, cyclic.signal(sums).view({1, 1, -1})};
  }
  const at::Tensor in = resized(x, q_ * g_).unflatten(1, {q_, g_}), out = resized(dy, m_ * g_).unflatten(1, {m_, g_});
  if (!wants_x && m_ > 1 && q_ > 1 && g_ <= short_length) {
    return {at::Tensor(), correlated_short(in, out, cyclic)};
  }
  const at::Tensor signal = cyclic.spectrum(in), g = cyclic.spectrum(out);  // [N, q, k] and [N, m, k]
  at::Tensor dx;
  if (wants_x) {
    const at::Tensor back = mixed(g, as(cyclic.spectrum(prepared[0]), g).conj().transpose(0, 1));
    dx = resized(cyclic.signal(back).flatten(1, 2), d_in());
  }
  return {dx, correlated(signal, g, cyclic)};
}

}  // namespace veneer
