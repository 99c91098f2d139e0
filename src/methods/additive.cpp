// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// y = W x + b + s * M dropout(x), M any structured matrix: LoRA (arXiv 2106.09685) with low_rank, SURM (arXiv
// 2406.17740) with circulant, VeRA (arXiv 2310.11454) with vera. With `decompose`, DoRA (arXiv 2402.09353, eq. 5): the
// weight W + s * M is rescaled row by row to a trained magnitude m, y = g * (W + s * M) x + b with g = m / ||W + s *
// M||, the norm taken without gradient (core/decomposition.h).
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/decomposition.h"
#include "core/row_dropout.h"
#include "core/update.h"
#include "methods/additive_fields.h"
#include "veneer/check.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

MatrixSite matrix_site(const Options& options, const Site& site) {
  return {site.d_in, site.d_out, options.text("start") == "zero" ? Start::zero : Start::random, site.layer, site.role};
}

class Additive final : public Method {
 public:
  Additive(const Options& options, const Site& site)
      : linear_(site.kind == SiteKind::linear),
        matrix_(bind_matrix(options.matrix("matrix"), matrix_site(options, site))),
        scale_(options.number("scale") * matrix_->scale()),
        dropout_(dropout_probability(options.number("dropout"))),
        rows_{options.number("rank_dropout"), options.number("module_dropout"), options.flag("rank_dropout_scale")} {
    if (!options.flag("decompose")) return;
    VENEER_CHECK(linear_ && site.has_weight, "additive",
                 "decompose (DoRA) needs the base layer's dense weight, got a site without one");
    VENEER_CHECK(!rows_.drops(), "additive", "decompose (DoRA) cannot be combined with rank_dropout or module_dropout");
    decomposition_.emplace(matrix_, scale_, options.text("dora_dropout") == "peft");
  }

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = matrix_->parameters();
    if (decomposition_) specs.push_back(decomposition_->magnitude());
    return specs;
  }

  void start(const at::Tensor& weight, const Params& params) const override {
    if (decomposition_) decomposition_->start(weight, params);
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor x = rows(in.x);
    const at::Tensor dropped = Dropped{x, in.seed, dropout_}.all();
    const bool owned = !in.y.defined();
    const at::Tensor y = owned ? at::linear(x, in.weight, in.bias) : rows(in.y);
    if (in.seed.defined() && rows_.drops()) {
      const at::Tensor update = wide(matrix_->apply(dropped, params)) * rows_.factors(in.seed, matrix_->d_out());
      return unrows(y + as(update * scale_, y), in.x);
    }
    return unrows(decomposition_ ? decomposition_->output(in, y, owned, x, dropped, params)
                                 : matrix_->accumulate(y, owned, dropped, params, scale_),
                  in.x);
  }

  // HF PEFT's dropout inside DoRA drops the base's input too: that is another product, and rare.
  bool fused(const Input& in) const override {
    return !in.seed.defined() || !(rows_.drops() || (decomposition_ && decomposition_->drops_base()));
  }

  std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const override {
    const Dropped x{in.x, in.seed, dropout_};
    return decomposition_ ? decomposition_->forward(x, base_of(in), params) : update(params).forward(x, base_of(in));
  }

  std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                         const std::vector<at::Tensor>& kept, bool wants_x) const override {
    const Dropped x{in.x, in.seed, dropout_};
    return decomposition_ ? decomposition_->backward(dy, x, base_of(in), params, kept, wants_x)
                          : update(params).backward(dy, x, base_of(in), kept, wants_x);
  }

  bool mergeable() const override { return linear_; }
  std::string merge_refusal() const override { return "an update of a hidden state has no weight to merge into"; }

  at::Tensor weight(const at::Tensor& weight, const Params& params) const override {
    const at::Tensor w = wide(weight);
    const at::Tensor sum = w.add(as(matrix_->dense(params), w), scale_);
    return as(decomposition_ ? sum * as(decomposition_->gain(weight, params), w).unsqueeze(1) : sum, weight);
  }

  Composition composition() const override { return decomposition_ ? Composition::exclusive : Composition::additive; }
  bool placed() const override { return matrix_->placed(); }
  bool needs_weight() const override { return decomposition_.has_value(); }
  double dropout() const override { return std::max({dropout_, rows_.row, rows_.whole}); }

 private:
  Update update(const Params& params) const { return {*matrix_, params, scale_}; }
  static Base base_of(const Input& in) { return {in.y.defined() ? at::Tensor() : in.weight, in.y, in.bias}; }

  bool linear_;
  std::shared_ptr<const Matrix> matrix_;
  double scale_;
  double dropout_;
  RowDropout rows_;
  std::optional<Decomposition> decomposition_;
};

ParameterSpecs shared(const Options& options, const std::vector<Site>& sites) {
  return shared_of(options.matrix("matrix"), sites, [&](const Site& site) { return matrix_site(options, site); });
}

const RegisterMethod registrar{
    {"additive",
     "y = W x + b + s * M dropout(x); with decompose, rows rescaled to a trained norm",
     "the matrix's, plus d_out with decompose",
     "LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353",
     {SiteKind::linear, SiteKind::hidden},
     {Option::matrix("matrix", "low_rank", "M, any structured matrix"),
      Option::number("scale", 1.0, "s, times the matrix's own scale"),
      Option::number("dropout", 0.0, "probability of dropping an element of M's input", 0.0, 0.9999),
      Option::number("rank_dropout", 0.0, "probability of dropping a row of M, for all tokens of a call", 0.0, 0.9999),
      Option::flag("rank_dropout_scale", false, "divide the rows that are kept by their share"),
      Option::number("module_dropout", 0.0, "probability of leaving out the whole update in a call", 0.0, 0.9999),
      Option::flag("decompose", false, "train the norms of the rows apart from their directions (DoRA)"),
      Option::choice("dora_dropout", "peft",
                     "with dropout: drop the input of the rescaled base product too, as HF PEFT "
                     "does, or share the base's own product, which is cheaper",
                     {"peft", "shared"}),
      Option::choice("start", "zero", "start at the base model, or at a random update", {"zero", "random"})},
     make_method<Additive>,
     shared}};

const RegisterConfig config{
    {"ADDITIVE", "AdditiveConfig", "Any structured matrix as the update of a frozen weight, or of a hidden state",
     OptionTable{
         Option::matrix("matrix", "low_rank",
                        "the structured matrix: its name, or an object with its name and options"),
         Option::choice("start", "zero", "start at the base model, or at a random update", {"zero", "random"})} +
         additive_fields("additive_only"),
     "{}", [](const Options& fields, const Site&) {
       return additive_call(fields.value("matrix"), fields, fields.text("start"));
     }}};

}  // namespace
}  // namespace veneer
