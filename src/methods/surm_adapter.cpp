// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// SURM's adapter layer (arXiv 2406.17740): y + s * (act(M dropout(z)) + b) with one square structured matrix M, no
// narrow inner layer and no second projection; the bias b comes after the nonlinearity.
#include <ATen/ATen.h>

#include "core/activation.h"
#include "core/projection.h"
#include "core/rescaling.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

MatrixSite matrix_site(const Site& site) { return {site.d_in, site.d_out, Start::zero, site.layer, site.role}; }

class SurmAdapter final : public Method {
 public:
  SurmAdapter(const Options& options, const Site& site)
      : projection_("adapter_", bind_matrix(options.matrix("matrix"), matrix_site(site)), 1.0, /*bias=*/false),
        activation_(options.text("activation")),
        scale_(options.number("scale")),
        dropout_(dropout_probability(options.number("dropout"))),
        bias_(options.flag("bias")) {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = projection_.parameters();
    if (bias_) specs.push_back({"bias", {projection_.matrix().d_out()}, Initial::zeros(), "bias.{adapter}"});
    return with_prefix(std::move(specs), "adapter_", "adapter.");
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor h = projection_.apply(seeded_dropout(rows(in.x), in.seed, dropout_), params);
    return unrows(added(rows(in.y), h, params), in.x);
  }

  bool fused(const Input& /*in*/) const override { return true; }

  // Kept is the state before its nonlinearity, and what the matrix keeps.
  std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const override {
    auto kept = projection_.forward({in.x, in.seed, dropout_}, {}, params);
    kept.insert(kept.begin(), added(in.y, kept[0], params));
    return kept;
  }

  std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                         const std::vector<at::Tensor>& kept, bool wants_x) const override {
    const at::Tensor da = scale_ == 1.0 ? dy : dy * scale_;
    const at::Tensor dh = activate_pullback(activation_, kept[0], da).contiguous();
    auto gradients =
        projection_.backward(dh, {in.x, in.seed, dropout_}, in.y, params, {kept.begin() + 1, kept.end()}, wants_x);
    if (bias_) set_gradient(gradients, params, "adapter_bias", sum_of_rows(da));
    return gradients;
  }

  std::string merge_refusal() const override { return "its nonlinearity has no effective weight"; }
  bool placed() const override { return projection_.matrix().placed(); }
  double dropout() const override { return dropout_; }

 private:
  // y + s (act(h) + b), a fresh tensor.
  at::Tensor added(const at::Tensor& y, const at::Tensor& h, const Params& params) const {
    const at::Tensor a = activate(activation_, h);
    return y.add(as(bias_ ? a + as(params["adapter_bias"], a) : a, y), scale_);
  }

  Projection projection_;
  std::string activation_;
  double scale_;
  double dropout_;
  bool bias_;
};

ParameterSpecs shared(const Options& options, const std::vector<Site>& sites) {
  return with_prefix(shared_of(options.matrix("matrix"), sites, matrix_site), "adapter_", "adapter.");
}

const RegisterMethod registrar{{"surm_adapter",
                                "y + s * (act(M dropout(z)) + b), M [d, d]",
                                "the matrix's + d",
                                "SURM, arXiv 2406.17740",
                                {SiteKind::hidden},
                                {Option::matrix("matrix", "circulant", "M, any structured matrix"),
                                 Option::choice("activation", "gelu", "the nonlinearity after M", activations()),
                                 Option::number("scale", 1.0, "s, the factor on the adapter's output"),
                                 Option::number("dropout", 0.0, "probability of dropping an element of z", 0.0, 0.9999),
                                 Option::flag("bias", true, "train b")},
                                make_method<SurmAdapter>,
                                shared}};

}  // namespace
}  // namespace veneer
