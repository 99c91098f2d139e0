// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Bottleneck adapter at a hidden state: y + s * (up(act(down(dropout(z)) + b_down)) + b_up), with any structured
// matrices as down [m, d] and up [d, m]. Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052) and parallel (arXiv
// 2110.04366) adapters differ in which z and y the host hands in.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/config.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

const std::vector<std::string> activations{"gelu", "gelu_tanh", "relu", "silu", "tanh"};

at::Tensor activate(const std::string& name, const at::Tensor& h) {
  if (name == "gelu") return at::gelu(h);
  if (name == "gelu_tanh") return at::gelu(h, "tanh");
  if (name == "relu") return at::relu(h);
  if (name == "silu") return at::silu(h);
  return at::tanh(h);
}

int64_t inner_size(const Options& options, int64_t d) {
  const int64_t size = options.integer("size");
  if (size > 0) return size;
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(d) / options.number("reduction_factor")));
}

MatrixSite down_site(const Options& options, const Site& site) {
  return {site.d_in, inner_size(options, site.d_in), Matrix::Start::random};
}

MatrixSite up_site(const Options& options, const Site& site) {
  return {inner_size(options, site.d_in), site.d_out, Matrix::Start::zero};
}

class Bottleneck final : public Method {
 public:
  Bottleneck(const Options& options, const Site& site)
      : site_(site),
        size_(inner_size(options, site.d_in)),
        down_(matrix_entry(options.matrix_name("down")).bind(options.matrix_options("down"), down_site(options, site))),
        up_(matrix_entry(options.matrix_name("up")).bind(options.matrix_options("up"), up_site(options, site))),
        activation_(options.text("activation")),
        scale_(options.number("scale")),
        dropout_(dropout_probability(options.number("dropout"))),
        bias_(options.flag("bias")),
        bert_(options.text("init") == "bert") {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = half(*down_, "down", size_);
    const ParameterSpecs up = half(*up_, "up", site_.d_out);
    specs.insert(specs.end(), up.begin(), up.end());
    return specs;
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor x = rows(in.x);
    const at::Tensor dropped = seeded_dropout(x, in.seed, dropout_);
    at::Tensor h = down_->apply(dropped, params.scoped("down_"));
    if (down_->scale() != 1.0) h = h * down_->scale();
    if (bias_) h = h + as(params["down_bias"], h);
    const at::Tensor y = rows(in.y);
    at::Tensor out = up_->accumulate(y, false, activate(activation_, h), params.scoped("up_"), scale_ * up_->scale());
    if (bias_) out = out.add_(as(params["up_bias"], out), scale_);  // `out` is fresh and saved by nothing
    return unrows(out, in.x);
  }

  std::string merge_refusal() const override { return "its nonlinearity has no effective weight"; }
  double dropout() const override { return dropout_; }

 private:
  ParameterSpecs half(const Matrix& matrix, const std::string& name, int64_t size) const {
    ParameterSpecs specs = matrix.parameters();
    for (auto& spec : specs) {
      if (bert_) spec.initial = Initial::normal(0.0, 0.02);
    }
    if (bias_) specs.push_back({"bias", {size}, Initial::zeros(), "bias.{adapter}"});
    return with_prefix(std::move(specs), name + "_", "adapter_" + name + ".");
  }

  Site site_;
  int64_t size_;
  std::shared_ptr<const Matrix> down_;
  std::shared_ptr<const Matrix> up_;
  std::string activation_;
  double scale_;
  double dropout_;
  bool bias_;
  bool bert_;
};

ParameterSpecs shared(const Options& options, const std::vector<Site>& sites) {
  ParameterSpecs all;
  for (const std::string name : {"down", "up"}) {
    const MatrixEntry& entry = matrix_entry(options.matrix_name(name));
    if (!entry.shared) continue;
    std::vector<MatrixSite> matrix_sites;
    for (const auto& site : sites) {
      matrix_sites.push_back(name == "down" ? down_site(options, site) : up_site(options, site));
    }
    const auto specs =
        with_prefix(entry.shared(options.matrix_options(name), matrix_sites), name + "_", "adapter_" + name + ".");
    all.insert(all.end(), specs.begin(), specs.end());
  }
  return all;
}

const RegisterMethod registrar{
    {"bottleneck",
     "y + s * (up(act(down(dropout(z)) + b_down)) + b_up)",
     "down's + up's + m + d (dense: 2 d m + m + d)",
     "Houlsby, arXiv 1902.00751; Pfeiffer, arXiv 2005.00052; parallel, arXiv 2110.04366",
     {SiteKind::hidden},
     {Option::integer("size", 0, "m, the inner size; 0 means d / reduction_factor", 0),
      Option::number("reduction_factor", 16.0, "d / m, rounded down, m at least 1", 1e-3),
      Option::choice("activation", "gelu", "the nonlinearity between down and up", activations),
      Option::matrix("down", "dense", "the structured matrix [m, d]"),
      Option::matrix("up", "dense", "the structured matrix [d, m]"),
      Option::number("scale", 1.0, "s, the factor on the adapter's output"),
      Option::number("dropout", 0.0, "probability of dropping an element of z", 0.0, 0.9999),
      Option::flag("bias", true, "train b_down and b_up"),
      Option::choice("init", "zero_up", "start up at zero (the base model exactly), or every matrix at N(0, 0.02^2)",
                     {"zero_up", "bert"})},
     [](const Options& options, const Site& site) { return std::make_shared<Bottleneck>(options, site); },
     shared}};

const RegisterConfig config{
    {"BOTTLENECK",
     "BottleneckConfig",
     "Adapter with a narrow inner layer at hidden states: Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052), "
     "parallel (arXiv 2110.04366)",
     {Option::number("reduction_factor", 16.0, "d / m, the inner size m rounded down, at least 1", 1e-3),
      Option::integer("bottleneck_size", 0, "m itself; 0 means d / reduction_factor", 0),
      Option::choice("placement", "houlsby",
                     "after attention and feed-forward, after the feed-forward's norm, or beside the "
                     "feed-forward",
                     {"houlsby", "pfeiffer", "parallel"}),
      Option::choice("non_linearity", "gelu", "between down and up", activations),
      Option::matrix("matrix", "dense", "the structured matrix of down and up"),
      Option::any("down_matrix", "null", "the structured matrix of down alone", "str | dict[str, Any] | None"),
      Option::any("up_matrix", "null", "the structured matrix of up alone", "str | dict[str, Any] | None"),
      Option::number("scaling", 1.0, "factor on the adapter's output"),
      Option::number("dropout", 0.0, "probability of dropping an element of the adapter's input", 0.0, 0.9999),
      Option::flag("use_bias", true, "train biases after down and up"),
      Option::choice("init_weights", "zero_up", "up zero (the base model exactly), or every matrix N(0, 0.02^2)",
                     {"zero_up", "bert"}),
      Option::integer("hidden_size", 0, "d where neither the model's config nor the module tells it; 0: found", 0)},
     "{}",
     [](const Options& fields, const Site&) {
       const auto matrix = [&](const char* own) {
         return fields.value(own).is_null() ? fields.value("matrix") : fields.value(own);
       };
       return method_call("bottleneck", {{"size", fields.integer("bottleneck_size")},
                                         {"reduction_factor", fields.number("reduction_factor")},
                                         {"activation", fields.text("non_linearity")},
                                         {"down", matrix("down_matrix")},
                                         {"up", matrix("up_matrix")},
                                         {"scale", fields.number("scaling")},
                                         {"dropout", fields.number("dropout")},
                                         {"bias", fields.flag("use_bias")},
                                         {"init", fields.text("init_weights")}});
     }}};

}  // namespace
}  // namespace veneer
