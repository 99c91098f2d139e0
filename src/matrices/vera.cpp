// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// VeRA (arXiv 2310.11454): M = diag(b) B diag(d) A with one frozen random pair A [r, D_in], B [D_out, r] shared by all
// layers, D the largest matched sizes; a smaller layer uses the leading part. Seed, order and bounds of the draw are HF
// PEFT's, so the same key gives the same matrices.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/rescaling.h"
#include "veneer/check.h"
#include "veneer/config.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Vera final : public Matrix {
 public:
  Vera(const Options& options, const MatrixSite& site)
      : Matrix(site), rank_(options.integer("rank")), d_initial_(options.number("d_initial")) {}

  ParameterSpecs parameters() const override {
    const auto up = zero_start() ? Initial::zeros() : Initial::ones();
    return {{"vera_lambda_b", {d_out()}, up, "vera_lambda_b.{adapter}"},
            {"vera_lambda_d", {rank_}, Initial::constant(d_initial_), "vera_lambda_d.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor& d = params["vera_lambda_d"];
    return at::matmul(params["vera_lambda_b"].unsqueeze(1) * as(up(params), d), d.unsqueeze(1) * as(down(params), d));
  }

  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    return {down(params), params["vera_lambda_d"], up(params), params["vera_lambda_b"]};
  }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    const at::Tensor h = at::linear(x, as(prepared[0], x)) * as(prepared[1], x);
    return at::linear(h, as(prepared[2], h)) * as(prepared[3], h);
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    const at::Tensor a = as(prepared[0], x), d = as(prepared[1], x), b = as(prepared[2], x);
    const at::Tensor reduced = at::linear(x, a), above = dy * as(prepared[3], x), back = at::mm(above, b);
    const at::Tensor of_b = sum_of_rows(dy * at::linear(reduced * d, b)), of_d = sum_of_rows(back * reduced);
    return {wants_x ? at::mm(back * d, a) : at::Tensor(), {}, of_d, {}, of_b};
  }

  static ParameterSpecs shared(const Options& options, const std::vector<MatrixSite>& sites) {
    int64_t d_in = 0;
    int64_t d_out = 0;
    for (const auto& site : sites) {
      d_in = std::max(d_in, site.d_in);
      d_out = std::max(d_out, site.d_out);
    }
    const int64_t rank = options.integer("rank");
    const int64_t key = options.integer("projection_prng_key");
    const bool saved = options.flag("save_projection");
    const auto spec = [&](const char* name, std::vector<int64_t> shape) {
      return ParameterSpec{
          name, std::move(shape), Initial::kaiming_uniform(0.0), std::string(name) + ".{adapter}", false, saved, key};
    };
    return {spec("vera_A", {rank, d_in}), spec("vera_B", {d_out, rank})};
  }

 private:
  at::Tensor down(const Params& params) const { return params["vera_A"].narrow(1, 0, d_in()); }
  at::Tensor up(const Params& params) const { return params["vera_B"].narrow(0, 0, d_out()); }

  int64_t rank_;
  double d_initial_;
};

const RegisterMatrix registrar{
    {"vera",
     "M = diag(b) B diag(d) A, A and B frozen and shared by all layers",
     "d_out + r",
     "VeRA, arXiv 2310.11454",
     {Option::integer("rank", 256, "r, the rows of the shared A", 1), Option::number("d_initial", 0.1, "start of d"),
      Option::integer("projection_prng_key", 0, "seed of the shared A and B"),
      Option::flag("save_projection", true, "write A and B to the checkpoint, else redraw them from the key")},
     make_matrix<Vera>,
     &Vera::shared}};

const RegisterConfig config{
    {"VERA",
     "VeraConfig",
     "Two trained vectors a layer around one frozen random pair shared by all: VeRA (arXiv 2310.11454)",
     {Option::integer("r", 256, "rank of the shared pair", 1),
      Option::integer("projection_prng_key", 0, "seed of the shared pair"),
      Option::flag("save_projection", true, "write the shared pair to the file, else redraw it from its seed"),
      Option::number("vera_dropout", 0.0, "probability of dropping an element of the update's input", 0.0, 0.9999),
      Option::number("d_initial", 0.1, "start of the inner vector"),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", "vera_only"}),
      Option::flag("init_weights", true, "start at the base model")},
     "{}",
     [](const Options& fields, const Site&) {
       const nlohmann::json matrix{{"name", "vera"},
                                   {"rank", fields.integer("r")},
                                   {"d_initial", fields.number("d_initial")},
                                   {"projection_prng_key", fields.integer("projection_prng_key")},
                                   {"save_projection", fields.flag("save_projection")}};
       return method_call("additive", {{"matrix", matrix},
                                       {"dropout", fields.number("vera_dropout")},
                                       {"start", fields.flag("init_weights") ? "zero" : "random"}});
     }}};

}  // namespace
}  // namespace veneer
