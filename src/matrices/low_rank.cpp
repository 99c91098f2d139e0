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

  std::vector<at::Tensor> prepare(const Params& params) const override { return {params["lora_A"], params["lora_B"]}; }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    const at::Tensor h = at::linear(x, as(prepared[0], x));  // [N, r]
    return at::linear(h, as(prepared[1], h));
  }

  at::Tensor accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                        double scale) const override {
    // One GEMM adds into the base's output: no separate product, scaling or sum is written.
    const at::Tensor h = as(at::linear(x, as(params["lora_A"], x)), y);
    const at::Tensor b = as(params["lora_B"], y).t();
    return owned ? y.addmm_(h, b, 1.0, scale) : y.addmm(h, b, 1.0, scale);
  }

  // With gradients of its own, since two thin products make most of them: h [N, r] is kept, not computed again.
  std::vector<at::Tensor> fused_add(const at::Tensor& y, const Dropped& x, const Params& params,
                                    double scale) const override {
    const at::Tensor a = as(params["lora_A"], y), b = as(params["lora_B"], y);
    at::Tensor h;  // [N, r]
    if (x.seed.defined()) {
      h = at::empty_symint({y.sym_size(0), rank_}, y.options());
      by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t) {
        at::Tensor part = h.narrow(0, begin, end - begin);
        at::mm_out(part, x.part(begin, end), a.t());
      });
    } else {
      h = at::mm(x.x, a.t());
    }
    y.addmm_(h, b.t(), 1.0, scale);
    return {h};
  }

  std::vector<at::Tensor> fused_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x,
                                          const Params& params, const std::vector<at::Tensor>& kept,
                                          double scale) const override {
    const at::Tensor a = as(params["lora_A"], dy), b = as(params["lora_B"], dy);
    const at::Tensor dh = at::mm(dy, b).mul_(scale);  // [N, r]
    // dB = s dy^T h, computed as (h^T dy)^T: the wide factor is then read along its rows.
    const at::Tensor db = at::mm(kept[0].t(), dy).mul_(scale).t();
    at::Tensor da;
    if (x.seed.defined()) {
      const at::Tensor sums = at::zeros({row_strips, rank_, d_in()}, a.options());
      by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t strip) {
        const at::Tensor part = dh.narrow(0, begin, end - begin);
        sums.select(0, strip).addmm_(part.t(), x.part(begin, end));
        if (dx.defined()) x.add_part(dx, at::mm(part, a), begin);
      });
      da = sums.sum(0);
    } else {
      da = at::mm(dh.t(), x.x);
      if (dx.defined()) dx.addmm_(dh, a);
    }
    return {as(da, params["lora_A"]), as(db, params["lora_B"])};
  }

  at::Tensor row_norms(const at::Tensor& weight, const Params& params, double scale) const override {
    // ||W + sBA||^2 row by row without the d_out x d_in product: ||W||^2 + 2s <W A^T, B> + s^2 <B A A^T, B>.
    const at::Tensor w = wide(weight);
    const at::Tensor a = as(params["lora_A"], w);
    const at::Tensor b = as(params["lora_B"], w);
    const at::Tensor cross = at::matmul(w, a.t()).mul(2.0 * scale);
    const at::Tensor square = at::matmul(b, at::matmul(a, a.t())).mul(scale * scale);
    const at::Tensor base = at::linalg_vector_norm(w, 2, at::IntArrayRef{1}).square();
    return base.add((cross + square).mul(b).sum(1)).clamp_min(0.0).sqrt();
  }

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
      Option::any("rank_pattern", "{}", "ranks by module: {regular expression of the path or its end: r}",
                  "dict[str, int]"),
      Option::any("alpha_pattern", "{}", "lora_alpha by module, as rank_pattern", "dict[str, float]")},
     // Values at which HF PEFT's other fields change nothing.
     R"({"megatron_core": "megatron.core", "qalora_group_size": 16, "runtime_config": {"ephemeral_gpu_offload": false}})",
     lora,
     {"dora_dropout"}}};

}  // namespace
}  // namespace veneer
