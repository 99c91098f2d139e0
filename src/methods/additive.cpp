// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// y = W x + b + s * M dropout(x), M any structured matrix: LoRA (arXiv 2106.09685) with low_rank, SURM (arXiv
// 2406.17740) with circulant, VeRA (arXiv 2310.11454) with vera. With `decompose`, DoRA (arXiv 2402.09353, eq. 5): the
// weight W + s * M is rescaled row by row to a trained magnitude m, y = g * (W + s * M) x + b with g = m / ||W + s *
// M||, the norm taken without gradient.
#include "methods/additive.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/rescaling.h"
#include "core/update.h"
#include "device/thin.h"
#include "veneer/check.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

// Rows of zeros have no direction; the same bound at the start and in forward keeps m / n at exactly one.
constexpr double smallest_norm = 1e-12;

MatrixSite matrix_site(const Options& options, const Site& site) {
  return {site.d_in, site.d_out, options.text("start") == "zero" ? Start::zero : Start::random, site.layer, site.role};
}

class Additive final : public Method {
 public:
  Additive(const Options& options, const Site& site)
      : site_(site),
        matrix_(bind_matrix(options.matrix("matrix"), matrix_site(options, site))),
        scale_(options.number("scale") * matrix_->scale()),
        dropout_(dropout_probability(options.number("dropout"))),
        row_dropout_(options.number("rank_dropout")),
        whole_dropout_(options.number("module_dropout")),
        keeps_mean_(options.flag("rank_dropout_scale")),
        decompose_(options.flag("decompose")),
        drop_base_(options.text("dora_dropout") == "peft") {
    VENEER_CHECK(!decompose_ || (site.kind == SiteKind::linear && site.has_weight), "additive",
                 "decompose (DoRA) needs the base layer's dense weight, got a site without one");
    VENEER_CHECK(!decompose_ || !drops_rows(), "additive",
                 "decompose (DoRA) cannot be combined with rank_dropout or module_dropout");
  }

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = matrix_->parameters();
    if (decompose_)
      specs.push_back({"magnitude", {site_.d_out}, Initial::derived(), "lora_magnitude_vector.{adapter}"});
    return specs;
  }

  void start(const at::Tensor& weight, const Params& params) const override {
    if (decompose_) params["magnitude"].copy_(row_norms(weight, params, {}).norms);
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor x = rows(in.x);
    const at::Tensor dropped = Dropped{x, in.seed, dropout_}.all();
    const bool owned = !in.y.defined();
    const at::Tensor y = owned ? at::linear(x, in.weight, in.bias) : rows(in.y);
    if (in.seed.defined() && drops_rows()) {
      const at::Tensor update = wide(matrix_->apply(dropped, params)) * kept_rows(in.seed);
      return unrows(y + as(update * scale_, y), in.x);
    }
    return unrows(decompose_ ? decomposed(in, y, owned, x, dropped, params)
                             : matrix_->accumulate(y, owned, dropped, params, scale_),
                  in.x);
  }

  // HF PEFT's dropout inside DoRA drops the base's input too: that is another product, and rare.
  bool fused(const Input& in) const override {
    return !in.seed.defined() || (!drops_rows() && (!decompose_ || !drop_base_));
  }

  // Kept is the update's, with decompose the output before it is rescaled among it, and then the norms n and m / n.
  std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const override {
    const auto [n, gain] = decompose_ ? rescaling(in.weight, params) : device::RowNorms{};
    std::vector<at::Tensor> kept = update(params).forward(input_of(in), base_of(in), gain);
    if (decompose_) kept.insert(kept.end(), {n, gain});
    kept[0] = unrows(kept[0], in.x);
    return kept;
  }

  std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                         const std::vector<at::Tensor>& kept, bool wants_x) const override {
    const Dropped x = input_of(in);
    const Base base = base_of(in);
    at::Tensor g = rows(dy).contiguous(), magnitude, gain;  // the gradient of m, and m / n
    if (decompose_ && !dy.is_meta()) {
      const at::Tensor &y = kept.end()[-3], &n = kept.end()[-2];
      gain = kept.back();
      const bool merged = update(params).merges(x, base);
      const Rescaled found = rescaled_pullback(g, y, in.bias, gain, /*wants_y=*/!merged);
      magnitude = found.gain / n;
      if (!merged) g = found.y, gain = at::Tensor();
    }
    std::vector<at::Tensor> gradients = update(params).backward(g, x, base, kept, wants_x, gain);
    if (magnitude.defined()) {
      const size_t place = params.place("magnitude");
      if (params.specs()[place].trainable) gradients[place] = as(magnitude, params.tensors()[place]);
    }
    fill_with_zeros(gradients, params);
    if (wants_x) gradients.back() = unrows(gradients.back(), in.x);
    return gradients;
  }

  bool mergeable() const override { return site_.kind == SiteKind::linear; }
  std::string merge_refusal() const override { return "an update of a hidden state has no weight to merge into"; }

  at::Tensor weight(const at::Tensor& weight, const Params& params) const override {
    const at::Tensor w = wide(weight);
    const at::Tensor sum = w.add(as(matrix_->dense(params), w), scale_);
    return as(decompose_ ? sum * as(gain(weight, params), w).unsqueeze(1) : sum, weight);
  }

  Composition composition() const override { return decompose_ ? Composition::exclusive : Composition::additive; }
  bool placed() const override { return matrix_->placed(); }
  bool needs_weight() const override { return decompose_; }
  double dropout() const override { return std::max({dropout_, row_dropout_, whole_dropout_}); }

 private:
  bool drops_rows() const { return row_dropout_ > 0.0 || whole_dropout_ > 0.0; }

  // The factors [d_out] on the rows of M in this call: LyCORIS's rank_dropout, which leaves the others as they are, or
  // keeps the mean factor at one; and its module_dropout. Each draws from a seed of its own.
  at::Tensor kept_rows(const at::Tensor& seed) const {
    const auto options = at::device(seed.device()).dtype(at::kFloat);
    const auto kept = [&](int64_t n, int64_t stream, double p) {
      return seeded_dropout(at::ones({n}, options), seed + stream, dropout_probability(p)).ne(0).to(at::kFloat);
    };
    at::Tensor factors = kept(site_.d_out, 1, row_dropout_);
    if (keeps_mean_) factors = factors / factors.mean().clamp_min(0.5 / static_cast<double>(site_.d_out));
    return factors * kept(1, 2, whole_dropout_);
  }

  Update update(const Params& params) const { return {*matrix_, params, scale_}; }
  Dropped input_of(const Input& in) const { return {rows(in.x).contiguous(), in.seed, dropout_}; }
  static Base base_of(const Input& in) {
    return {in.y.defined() ? at::Tensor() : in.weight, in.y.defined() ? rows(in.y).contiguous() : at::Tensor(),
            in.bias};
  }

  // The norms n [d_out] of the rows of W + s M, without gradients, in float32 at least; by a GPU's kernels where it has
  // them, but for the composed path. With magnitudes m, n is rounded as m was when it started, so that m / n, the
  // gains, is then exactly one in 16-bit adapters too.
  device::RowNorms row_norms(const at::Tensor& weight, const Params& params, const at::Tensor& magnitudes,
                             bool composed = false) const {
    const c10::NoGradGuard no_grad;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(
        c10::autocast_dispatch_keyset);  // its products would be 16-bit
    const at::Tensor w = weight.detach();
    if (!composed && matrix_->form() == Matrix::Form::factors) {
      const auto factors = matrix_->prepare(params);
      if (device::takes_thin(w, factors[0].sym_size(0).guard_int(__FILE__, __LINE__))) {
        return device::row_norms(w, factors[0], factors[1], scale_, smallest_norm, magnitudes);
      }
    }
    const at::Tensor norms = matrix_->row_norms(w, params, scale_).clamp_min(smallest_norm);
    if (!magnitudes.defined()) return {norms, {}};
    const at::Tensor rounded = wide(as(norms, magnitudes)).clamp_min(smallest_norm);
    return {rounded, wide(magnitudes) / rounded};
  }

  device::RowNorms rescaling(const at::Tensor& weight, const Params& params) const {
    const at::Tensor m = params["magnitude"].detach();
    if (!weight.is_meta()) return row_norms(weight, params, m);
    // Meta tensors of symbolic sizes cannot be cast.
    const at::Tensor empty = at::empty_symint(m.sym_sizes(), m.options().dtype(wide_type(m.scalar_type())));
    return {empty, at::empty_like(empty)};
  }

  // For the composed path: m / n, with m's gradient.
  at::Tensor gain(const at::Tensor& weight, const Params& params) const {
    const at::Tensor& m = params["magnitude"];
    return wide(m) / row_norms(weight, params, m, /*composed=*/true).norms;
  }

  at::Tensor decomposed(const Input& in, const at::Tensor& y, bool owned, const at::Tensor& x,
                        const at::Tensor& dropped, const Params& params) const {
    const at::Tensor g = gain(in.weight, params);
    if (dropped.is_same(x) || !drop_base_) {
      // As `rescaled`, differentiable.
      const at::Tensor sum = matrix_->accumulate(y, owned, dropped, params, scale_) * g;
      return as(in.bias.defined() ? sum + (1.0 - g) * in.bias : sum, y);
    }
    // HF PEFT's semantics: the rescaled part of the base product sees the dropped input too.
    const at::Tensor base = at::linear(dropped, in.weight);
    return as(y + matrix_->accumulate(base, false, dropped, params, scale_) * g - base, y);
  }

  Site site_;
  std::shared_ptr<const Matrix> matrix_;
  double scale_;
  double dropout_;
  double row_dropout_;
  double whole_dropout_;
  bool keeps_mean_;
  bool decompose_;
  bool drop_base_;
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

OptionTable additive_fields(const std::string& own_bias) {
  return {
      Option::number("scaling", 1.0, "factor on the update, times the matrix's own scale"),
      Option::number("dropout", 0.0, "probability of dropping an element of the update's input", 0.0, 0.9999),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", own_bias}),
      Option::flag("use_dora", false, "train magnitude and direction apart"),
      Option::choice("dora_dropout", "peft",
                     "DoRA with dropout: HF PEFT's semantics, or the cheaper shared base product", {"peft", "shared"})};
}

MethodCall additive_call(const nlohmann::json& matrix, const Options& fields, const std::string& start) {
  return method_call("additive", {{"matrix", matrix},
                                  {"scale", fields.number("scaling")},
                                  {"dropout", fields.number("dropout")},
                                  {"decompose", fields.flag("use_dora")},
                                  {"dora_dropout", fields.text("dora_dropout")},
                                  {"start", start}});
}

}  // namespace veneer
