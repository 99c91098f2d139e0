// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// M = B A with A [r, d_in], B [d_out, r]: LoRA (arXiv 2106.09685, eq. 3), scale alpha / r, or alpha / sqrt(r) with
// rank_stabilized (rsLoRA, arXiv 2312.03732). Names, starts and keys are HF PEFT's.
#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/config.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class LowRank final : public Matrix {
 public:
  LowRank(const Options& options, const MatrixSite& site)
      : Matrix(site), rank_(options.integer("rank")), gaussian_(options.text("initial") == "gaussian") {
    const double alpha = options.number("alpha") == 0.0 ? static_cast<double>(rank_) : options.number("alpha");
    const auto rank = static_cast<double>(rank_);
    scale_ = alpha / (options.flag("rank_stabilized") ? std::sqrt(rank) : rank);
  }

  ParameterSpecs parameters() const override {
    const double std = 1.0 / static_cast<double>(rank_);
    const auto down = gaussian_ ? Initial::normal(0.0, std) : Initial::kaiming_uniform(std::sqrt(5.0));
    const auto up = zero_start() ? Initial::zeros() : Initial::kaiming_uniform(std::sqrt(5.0));
    return {{"lora_A", {rank_, d_in()}, down, "lora_A.{adapter}.weight"},
            {"lora_B", {d_out(), rank_}, up, "lora_B.{adapter}.weight"}};
  }

  at::Tensor dense(const Params& params) const override { return at::matmul(params["lora_B"], params["lora_A"]); }

  Form form() const override { return Form::factors; }
  std::vector<at::Tensor> prepare(const Params& params) const override { return {params["lora_A"], params["lora_B"]}; }
  double scale() const override { return scale_; }

 private:
  int64_t rank_;
  bool gaussian_;
  double scale_;
};

const RegisterMatrix registrar{
    {"low_rank",
     "M = B A, scaled by alpha / r (or alpha / sqrt(r))",
     "r * (d_in + d_out)",
     "LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732",
     {Option::integer("rank", 8, "r, the number of rows of A", 1),
      Option::number("alpha", 0.0, "numerator of the scale; 0 means r, a scale of one", 0),
      Option::flag("rank_stabilized", false, "divide alpha by sqrt(r) instead of r"),
      Option::choice("initial", "kaiming", "start of A: U(+-1/sqrt(d_in)) or N(0, 1/r^2)", {"kaiming", "gaussian"})},
     make_matrix<LowRank>}};

MethodCall lora(const Options& fields, const Site& site) {
  const nlohmann::json& start = fields.value("init_lora_weights");
  VENEER_CHECK(start.is_boolean() || start == "gaussian", "LoraConfig",
               "init_lora_weights must be one of: true, false, \"gaussian\"; got ", start.dump());
  const nlohmann::json matrix{
      {"name", "low_rank"},
      {"rank", pattern_value(fields.value("rank_pattern"), site.path, fields.integer("r"))},
      {"alpha", pattern_value(fields.value("alpha_pattern"), site.path, fields.number("lora_alpha"))},
      {"rank_stabilized", fields.flag("use_rslora")},
      {"initial", start == "gaussian" ? "gaussian" : "kaiming"}};
  return method_call("additive", {{"matrix", matrix},
                                  {"dropout", fields.number("lora_dropout")},
                                  {"decompose", fields.flag("use_dora")},
                                  {"dora_dropout", fields.text("dora_dropout")},
                                  {"start", start == false ? "random" : "zero"}});
}

const RegisterConfig config{
    {"LORA",
     "LoraConfig",
     "Low-rank update of a frozen weight: LoRA (arXiv 2106.09685), rsLoRA (use_rslora; arXiv 2312.03732), DoRA "
     "(use_dora; arXiv 2402.09353)",
     {Option::integer("r", 8, "rank", 1),
      Option::number("lora_alpha", 8, "the update is scaled by lora_alpha / r", 1e-30),
      Option::number("lora_dropout", 0.0, "probability of dropping an element of the update's input", 0.0, 0.9999),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", "lora_only"}),
      Option::flag("use_rslora", false, "scale by lora_alpha / sqrt(r)"),
      Option::flag("use_dora", false, "train magnitude and direction apart"),
      Option::choice("dora_dropout", "peft",
                     "DoRA with dropout: HF PEFT's semantics, or the cheaper shared base product", {"peft", "shared"}),
      Option::any("init_lora_weights", "true", "true: B zero; false: B random too; \"gaussian\": A normal, B zero",
                  "bool | str"),
      Option::by_module("rank_pattern", "r", "ranks by module: {regular expression of the path or its end: r}",
                        "dict[str, int]"),
      Option::by_module("alpha_pattern", "lora_alpha", "lora_alpha by module, as rank_pattern", "dict[str, float]")},
     // Values at which HF PEFT's other fields change nothing.
     R"({"megatron_core": "megatron.core", "qalora_group_size": 16, "runtime_config": {"ephemeral_gpu_offload": false}})",
     lora,
     {"dora_dropout"}}};

}  // namespace
}  // namespace veneer
