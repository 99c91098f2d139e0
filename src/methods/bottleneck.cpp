// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Bottleneck adapter at a hidden state: y + s * (up(act(down(dropout(z)) + b_down)) + b_up), with any structured
// matrices as down [m, d] and up [d, m]. Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052) and parallel (arXiv
// 2110.04366) adapters differ in which z and y the host hands in.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/activation.h"
#include "core/projections.h"
#include "methods/adapter_fields.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t inner_size(const Options& options, int64_t d) {
  const int64_t size = options.integer("size");
  if (size > 0) return size;
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(d) / options.number("reduction_factor")));
}

MatrixSite down_site(const Options& options, const Site& site) {
  return {site.d_in, inner_size(options, site.d_in), Start::random, site.layer, site.role + ".down"};
}

MatrixSite up_site(const Options& options, const Site& site) {
  return {inner_size(options, site.d_in), site.d_out, Start::zero, site.layer, site.role + ".up"};
}

class Bottleneck final : public Method {
 public:
  Bottleneck(const Options& options, const Site& site)
      : layers_({"down_", bind_matrix(options.matrix("down"), down_site(options, site)), 1.0, options.flag("bias")},
                {"up_", bind_matrix(options.matrix("up"), up_site(options, site)), options.number("scale"),
                 options.flag("bias")},
                options.text("activation")),
        dropout_(dropout_probability(options.number("dropout"))),
        bert_(options.text("init") == "bert") {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = half(layers_.down(), "down");
    const ParameterSpecs up = half(layers_.up(), "up");
    specs.insert(specs.end(), up.begin(), up.end());
    return specs;
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    return unrows(layers_.apply(seeded_dropout(rows(in.x), in.seed, dropout_), params, rows(in.y)), in.x);
  }

  bool fused(const Input& /*in*/) const override { return true; }

  std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const override {
    return layers_.forward({in.x, in.seed, dropout_}, in.y, params);
  }

  std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                         const std::vector<at::Tensor>& kept, bool wants_x) const override {
    return layers_.backward(dy, {in.x, in.seed, dropout_}, in.y, params, kept, wants_x);
  }

  std::string merge_refusal() const override { return "its nonlinearity has no effective weight"; }
  bool placed() const override { return layers_.down().matrix().placed() || layers_.up().matrix().placed(); }
  double dropout() const override { return dropout_; }

 private:
  ParameterSpecs half(const Projection& projection, const std::string& name) const {
    ParameterSpecs specs = projection.parameters();
    for (auto& spec : specs) {
      if (bert_ && spec.name != "bias") spec.initial = Initial::normal(0.0, 0.02);
    }
    return with_prefix(std::move(specs), name + "_", "adapter_" + name + ".");
  }

  Projections layers_;
  double dropout_;
  bool bert_;
};

ParameterSpecs shared(const Options& options, const std::vector<Site>& sites) {
  ParameterSpecs all;
  for (const std::string name : {"down", "up"}) {
    const auto specs = shared_of(options.matrix(name), sites, [&](const Site& site) {
      return name == "down" ? down_site(options, site) : up_site(options, site);
    });
    add_shared(all, with_prefix(specs, name + "_", "adapter_" + name + "."));
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
      Option::choice("activation", "gelu", "the nonlinearity between down and up", activations()),
      Option::matrix("down", "dense", "the structured matrix [m, d]"),
      Option::matrix("up", "dense", "the structured matrix [d, m]"),
      Option::number("scale", 1.0, "s, the factor on the adapter's output"),
      Option::number("dropout", 0.0, "probability of dropping an element of z", 0.0, 0.9999),
      Option::flag("bias", true, "train b_down and b_up"),
      Option::choice("init", "zero_up", "start up at zero (the base model exactly), or every matrix at N(0, 0.02^2)",
                     {"zero_up", "bert"})},
     make_method<Bottleneck>,
     shared}};

const RegisterConfig config{
    {"BOTTLENECK", "BottleneckConfig",
     "Adapter with a narrow inner layer at hidden states: Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052), "
     "parallel (arXiv 2110.04366)",
     OptionTable{
         Option::matrix("matrix", "dense", "the structured matrix of down and up"),
         Option::any("down_matrix", "null", "the structured matrix of down alone", "str | dict[str, Any] | None"),
         Option::any("up_matrix", "null", "the structured matrix of up alone", "str | dict[str, Any] | None"),
         Option::choice("init_weights", "zero_up", "up zero (the base model exactly), or every matrix N(0, 0.02^2)",
                        {"zero_up", "bert"})} +
         bottleneck_fields("houlsby", "gelu", 0, 16.0),
     "{}", [](const Options& fields, const Site&) {
       const auto matrix = [&](const char* own) {
         return fields.value(own).is_null() ? fields.value("matrix") : fields.value(own);
       };
       return bottleneck_call(matrix("down_matrix"), matrix("up_matrix"), fields, fields.text("init_weights"));
     }}};

}  // namespace
}  // namespace veneer
