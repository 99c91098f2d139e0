// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// SURM's adapter layer (arXiv 2406.17740): y + s * (act(M dropout(z)) + b) with one square structured matrix M, no
// narrow inner layer and no second projection; the bias b comes after the nonlinearity.
#include <ATen/ATen.h>

#include "core/activation.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

MatrixSite matrix_site(const Site& site) { return {site.d_in, site.d_out, Start::zero, site.layer, site.role}; }

class SurmAdapter final : public Method {
 public:
  SurmAdapter(const Options& options, const Site& site)
      : size_(site.d_out),
        matrix_(bind_matrix(options.matrix("matrix"), matrix_site(site))),
        activation_(options.text("activation")),
        scale_(options.number("scale")),
        dropout_(dropout_probability(options.number("dropout"))),
        bias_(options.flag("bias")) {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = matrix_->parameters();
    if (bias_) specs.push_back({"bias", {size_}, Initial::zeros(), "bias.{adapter}"});
    return with_prefix(std::move(specs), "adapter_", "adapter.");
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const Params own = params.scoped("adapter_");
    const at::Tensor x = rows(in.x), y = rows(in.y);
    at::Tensor h = matrix_->apply(seeded_dropout(x, in.seed, dropout_), own);
    if (matrix_->scale() != 1.0) h = h * matrix_->scale();
    h = activate(activation_, h);
    if (bias_) h = h + as(own["bias"], h);
    return unrows(y.add(as(h, y), scale_), in.x);
  }

  std::string merge_refusal() const override { return "its nonlinearity has no effective weight"; }
  bool placed() const override { return matrix_->placed(); }
  double dropout() const override { return dropout_; }

 private:
  int64_t size_;
  std::shared_ptr<const Matrix> matrix_;
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
