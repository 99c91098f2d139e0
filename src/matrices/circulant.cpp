// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// SURM's circulant matrix (arXiv 2406.17740): M[i, j] = c[(i - j) mod d], c the first column, c = a * b elementwise in
// the product form. Rectangular: m x q blocks of size g = gcd(d_out, d_in), each circulant by columns. x M^T is a
// circular convolution: irfft(rfft(x) * rfft(c)), in float32 at least.
#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "veneer/check.h"
#include "veneer/config.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Circulant final : public Matrix {
 public:
  Circulant(const Options& options, const MatrixSite& site)
      : site_(site), product_(options.text("form") == "product"), g_(options.integer("block_size")) {
    const int64_t common = std::gcd(site.d_in, site.d_out);
    if (g_ == 0) {
      VENEER_CHECK(
          common > 1 || site.d_in == site.d_out, "circulant", "d_in ", site.d_in, " and d_out ", site.d_out,
          " have no common divisor but 1, and blocks of size 1 are a dense matrix; expected sizes with a common",
          " divisor, or block_size with padding=true");
      g_ = common;
    }
    const bool fits = site.d_in % g_ == 0 && site.d_out % g_ == 0;
    VENEER_CHECK(fits || options.flag("padding"), "circulant", "block_size must divide ", site.d_in, " and ",
                 site.d_out, ", got ", g_, "; the nearest that does is ", nearest_divisor(common, g_),
                 ", or set padding=true");
    m_ = (site.d_out + g_ - 1) / g_;
    q_ = (site.d_in + g_ - 1) / g_;
  }

  ParameterSpecs parameters() const override {
    const std::vector<int64_t> shape = m_ == 1 && q_ == 1 ? std::vector<int64_t>{g_} : std::vector<int64_t>{m_, q_, g_};
    const bool zero = site_.start == Start::zero;
    // Random starts keep the variance of the input: each output sums d_in terms.
    const double std = 1.0 / std::sqrt(static_cast<double>(site_.d_in));
    if (!product_) {
      return {{"circulant_c", shape, zero ? Initial::zeros() : Initial::normal(0.0, std), "circulant_c.{adapter}"}};
    }
    return {{"circulant_a", shape, Initial::normal(0.0, zero ? 0.02 : std), "circulant_a.{adapter}"},
            {"circulant_b", shape, zero ? Initial::zeros() : Initial::ones(), "circulant_b.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor c = columns(params);  // [m, q, g]
    const at::Tensor i = at::arange(g_, c.options().dtype(at::kLong));
    const at::Tensor index = (i.unsqueeze(1) - i).remainder(g_).flatten();  // [u, v] -> (u - v) mod g
    const at::Tensor blocks = c.index_select(2, index).unflatten(2, {g_, g_});
    return blocks.transpose(1, 2).reshape({m_ * g_, q_ * g_}).narrow(0, 0, site_.d_out).narrow(1, 0, site_.d_in);
  }

  at::Tensor apply(const at::Tensor& x, const Params& params) const override {
    if (TORCH_GUARD_SIZE_OBLIVIOUS(x.sym_size(0).sym_eq(0))) return Matrix::apply(x, params);  // MKL refuses no signals
    const at::Tensor c = columns(params);
    const at::ScalarType type = spectral_type(x, c);
    return as(signals(mixed(spectra(x, site_.d_in, q_, type), at::fft_rfft(c.to(type))), m_, site_.d_out), x);
  }

  bool fused() const override { return true; }

  std::vector<at::Tensor> fused_add(const at::Tensor& y, const Dropped& x, const Params& params,
                                    double scale) const override {
    const at::Tensor c = columns(params);
    const at::ScalarType type = spectral_type(x.x, c);
    const at::Tensor spectrum = at::fft_rfft(c.to(type) * scale);
    by_rows(x.x, [&](int64_t begin, int64_t end, int64_t) {
      const at::Tensor update = mixed(spectra(x.part(begin, end), site_.d_in, q_, type), spectrum);
      y.narrow(0, begin, end - begin).add_(signals(update, m_, site_.d_out));
    });
    return {};
  }

  // Correlations: dc = irfft(conj(rfft x) * rfft dy) summed over rows, dx = irfft(rfft dy * conj(rfft c)). The spectrum
  // of x is computed again: keeping it would double what a layer keeps, for one transform of five.
  std::vector<at::Tensor> fused_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x,
                                          const Params& params, const std::vector<at::Tensor>& /*kept*/,
                                          double scale) const override {
    const at::Tensor c = columns(params);
    const at::ScalarType type = spectral_type(x.x, c);
    const at::Tensor spectrum = at::conj_physical(at::fft_rfft(c.to(type) * scale));
    const at::Tensor sums = at::zeros({row_strips, m_, q_, g_ / 2 + 1}, spectrum.options());
    by_rows(x.x, [&](int64_t begin, int64_t end, int64_t strip) {
      const at::Tensor signal = spectra(x.part(begin, end), site_.d_in, q_, type);                   // [n, q, k]
      const at::Tensor gradient = spectra(dy.narrow(0, begin, end - begin), site_.d_out, m_, type);  // [n, m, k]
      sums.select(0, strip).add_(correlated(signal, gradient));
      if (dx.defined()) {
        x.add_part(dx, as(signals(mixed(gradient, spectrum.transpose(0, 1)), q_, site_.d_in), dx).contiguous(), begin);
      }
    });
    const at::Tensor dc = at::fft_irfft(sums.sum(0), g_).mul_(scale);
    if (!product_) return {as(dc.view_as(params["circulant_c"]), params["circulant_c"])};
    const at::Tensor &a = params["circulant_a"], &b = params["circulant_b"];
    const at::Tensor shaped = dc.view_as(a);
    return {as(shaped * b, a), as(shaped * a, b)};
  }

 private:
  static at::ScalarType spectral_type(const at::Tensor& x, const at::Tensor& c) {
    return at::promote_types(wide_type(x.scalar_type()), wide_type(c.scalar_type()));
  }

  // x [n, d], zeros up to [n, blocks * g], -> [n, blocks, g/2 + 1].
  at::Tensor spectra(const at::Tensor& x, int64_t d, int64_t blocks, at::ScalarType type) const {
    const at::Tensor u = x.to(type);
    const at::Tensor padded = blocks * g_ == d ? u : at::constant_pad_nd(u, {0, blocks * g_ - d});
    return at::fft_rfft(padded.unflatten(1, {blocks, g_}));
  }

  // Spectra [n, from, k] through those of the blocks, [to, from, k], to [n, to, k].
  static at::Tensor mixed(const at::Tensor& signal, const at::Tensor& spectrum) {
    if (spectrum.size(1) == 1) return signal * spectrum.squeeze(1);
    if (spectrum.size(0) == 1) return (signal * spectrum.squeeze(0)).sum(1, /*keepdim=*/true);
    return at::einsum("nqk,mqk->nmk", {signal, spectrum});
  }

  // Summed over rows: [m, q, k] of conj(signal [n, q, k]) * gradient [n, m, k].
  static at::Tensor correlated(const at::Tensor& signal, const at::Tensor& gradient) {
    if (signal.size(1) == 1 || gradient.size(1) == 1) {
      const at::Tensor sum = (signal.conj() * gradient).sum(0);  // [m or q, k]
      return gradient.size(1) == 1 ? sum.unsqueeze(0) : sum.unsqueeze(1);
    }
    return at::einsum("nqk,nmk->mqk", {signal.conj(), gradient});
  }

  // [n, blocks, g/2 + 1] -> [n, d]. Without its length irfft would return an even number of points.
  at::Tensor signals(const at::Tensor& spectrum, int64_t blocks, int64_t d) const {
    const at::Tensor y = at::fft_irfft(spectrum, g_).flatten(1, 2);
    return blocks * g_ == d ? y : y.narrow(1, 0, d);
  }

  static int64_t nearest_divisor(int64_t n, int64_t wanted) {
    int64_t best = 1;
    for (int64_t d = 1; d <= n; ++d) {
      if (n % d == 0 && std::abs(d - wanted) < std::abs(best - wanted)) best = d;
    }
    return best;
  }

  at::Tensor columns(const Params& params) const {
    const at::Tensor c = product_ ? params["circulant_a"] * params["circulant_b"] : params["circulant_c"];
    return c.reshape({m_, q_, g_});
  }

  MatrixSite site_;
  bool product_;
  int64_t g_, m_ = 0, q_ = 0;
};

const RegisterMatrix registrar{
    {"circulant",
     "M[i, j] = c[(i - j) mod g] in blocks of g = gcd(d_out, d_in), c = a * b",
     "2 * d_out * d_in / g (single form: half)",
     "SURM, arXiv 2406.17740",
     {Option::choice("form", "product", "c = a * b as in the paper, or one trained vector c", {"product", "single"}),
      Option::integer("block_size", 0, "g; 0 means gcd(d_out, d_in)", 0),
      Option::flag("padding", false, "pad d_in and d_out up to multiples of block_size")},
     [](const Options& options, const MatrixSite& site) { return std::make_shared<Circulant>(options, site); }}};

const RegisterConfig config{
    {"SURM",
     "SurmConfig",
     "Structured update of unrestricted rank: SURM (arXiv 2406.17740)",
     {Option::choice("structure", "circulant", "the structured matrix", {"circulant"}),
      Option::choice("form", "product", "c = a * b as in the paper, or one trained vector", {"product", "single"}),
      Option::integer("block_size", 0, "size of the blocks of a rectangular layer; 0: gcd(d_in, d_out)", 0),
      Option::flag("padding", false, "pad sizes up to multiples of block_size"),
      Option::number("scaling", 1.0, "factor on the update"),
      Option::number("dropout", 0.0, "probability of dropping an element of the update's input", 0.0, 0.9999),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", "surm_only"}),
      Option::flag("use_dora", false, "train magnitude and direction apart"),
      Option::choice("dora_dropout", "peft",
                     "DoRA with dropout: HF PEFT's semantics, or the cheaper shared base product", {"peft", "shared"})},
     "{}",
     [](const Options& fields, const Site&) {
       const nlohmann::json matrix{{"name", fields.text("structure")},
                                   {"form", fields.text("form")},
                                   {"block_size", fields.integer("block_size")},
                                   {"padding", fields.flag("padding")}};
       return method_call("additive", {{"matrix", matrix},
                                       {"scale", fields.number("scaling")},
                                       {"dropout", fields.number("dropout")},
                                       {"decompose", fields.flag("use_dora")},
                                       {"dora_dropout", fields.text("dora_dropout")}});
     }}};

}  // namespace
}  // namespace veneer
