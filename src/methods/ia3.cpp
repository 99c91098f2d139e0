// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// (IA)3 (arXiv 2205.05638, section 3.3): a trained vector l rescales a layer. At keys and values its output,
// y = l * (W x + b); at the second feed-forward matrix its input, y = W (l * x) + b. Starts at one; several multiply.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "ops/scaled_columns.h"
#include "ops/scaled_linear.h"
#include "veneer/config.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

// t * l in t's dtype. The product is taken in l's precision: near one, a 16-bit l could not move by less than 2^-8.
at::Tensor scaled(const at::Tensor& t, const at::Tensor& l) { return scaled_columns(t, l); }

class Ia3 final : public Method {
 public:
  Ia3(const Options& options, const Site& site)
      : site_(site), input_(options.text("position") == "input"), random_(options.text("start") == "random") {}

  ParameterSpecs parameters() const override {
    const auto shape = input_ ? std::vector<int64_t>{1, site_.d_in} : std::vector<int64_t>{site_.d_out, 1};
    return {{"ia3_l", shape, random_ ? Initial::normal(1.0, 0.02) : Initial::ones(), "ia3_l.{adapter}"}};
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor& l = params["ia3_l"];
    if (input_) return in.y.defined() ? in.y : at::linear(scaled(in.x, l), in.weight, in.bias);
    return in.y.defined() ? scaled(in.y, l) : scaled_linear(in.x, in.weight, in.bias, l);
  }

  at::Tensor input(const at::Tensor& x, const Params& params) const override {
    return input_ ? scaled(x, params["ia3_l"]) : x;
  }

  bool changes_input() const override { return input_; }
  bool mergeable() const override { return true; }

  at::Tensor weight(const at::Tensor& weight, const Params& params) const override {
    return as(wide(weight) * params["ia3_l"], weight);  // [d_out, 1] scales rows, [1, d_in] columns
  }

  at::Tensor bias(const at::Tensor& bias, const Params& params) const override {
    return input_ ? bias : scaled(bias, params["ia3_l"]);
  }

  Composition composition() const override { return Composition::scaling; }

 private:
  Site site_;
  bool input_;
  bool random_;
};

const RegisterMethod registrar{
    {"ia3",
     "y = l * (W x + b), or W (l * x) + b",
     "d_out, or d_in at feed-forward positions",
     "(IA)3, arXiv 2205.05638",
     {SiteKind::linear},
     {Option::choice("position", "output", "scale the layer's output or its input", {"output", "input"}),
      Option::choice("start", "one", "start at one, or at N(1, 0.02^2)", {"one", "random"})},
     make_method<Ia3>}};

const RegisterConfig config{
    {"IA3",
     "IA3Config",
     "Trained rescaling of keys, values and feed-forward activations: (IA)3 (arXiv 2205.05638)",
     {Option::any("feedforward_modules", "null",
                  "those of target_modules whose input is scaled: names or a regular expression",
                  "list[str] | str | None"),
      Option::flag("init_ia3_weights", true, "start at one; false starts at N(1, 0.02^2)")},
     "{}",
     [](const Options& fields, const Site& site) {
       const bool input = path_matches(fields.value("feedforward_modules"), site.path);
       return method_call("ia3", {{"position", input ? "input" : "output"},
                                  {"start", fields.flag("init_ia3_weights") ? "one" : "random"}});
     }}};

}  // namespace
}  // namespace veneer
