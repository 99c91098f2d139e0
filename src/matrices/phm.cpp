// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Compacter's parametrised hypercomplex multiplication (arXiv 2106.04647, eq. 4): a sum of Kronecker products, for rows
// x of d_in features x W with W = sum over i < n of A_i (x) B_i, so M = W^T. The rules A [n, n, n] are shared by all
// layers or the layer's own; B_i [d_in / n, d_out / n] is of rank rho, s_i t_i, or full with rank 0.
#include <ATen/ATen.h>

#include <cmath>

#include "core/divisors.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

ParameterSpec rule(const Options& options) {
  const int64_t n = options.integer("n");
  ParameterSpec spec{"phm_rule", {n, n, n}, Initial::normal(0.0, options.number("rule_std")), "phm_rule.{adapter}"};
  spec.common = options.flag("shared_rule");
  return spec;
}

class Phm final : public Matrix {
 public:
  Phm(const Options& options, const MatrixSite& site)
      : Matrix(site),
        n_(options.integer("n")),
        rank_(options.integer("rank")),
        exact_(options.text("initial") == "zero"),
        shared_(options.flag("shared_rule")),
        rule_(rule(options)) {
    check_divides("phm", "n", n_, site);
  }

  ParameterSpecs parameters() const override {
    const int64_t k = d_in() / n_, d = d_out() / n_;
    // Xavier-uniform with gain sqrt(2), slice by slice.
    const auto xavier = [](int64_t rows, int64_t columns) {
      const double bound = std::sqrt(12.0 / static_cast<double>(rows + columns));
      return Initial::uniform(-bound, bound);
    };
    const bool zero = zero_start() && exact_;
    ParameterSpecs specs;
    if (rank_ == 0) {
      specs.push_back({"phm_b", {n_, k, d}, zero ? Initial::zeros() : xavier(k, d), "phm_b.{adapter}"});
    } else {
      specs.push_back({"phm_s", {n_, k, rank_}, xavier(k, rank_), "phm_s.{adapter}"});
      specs.push_back({"phm_t", {n_, rank_, d}, zero ? Initial::zeros() : xavier(rank_, d), "phm_t.{adapter}"});
    }
    if (!shared_) specs.push_back(rule_);
    return specs;
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor b = rank_ == 0 ? params["phm_b"] : at::matmul(params["phm_s"], params["phm_t"]);
    return at::einsum("iab,ice->beac", {params["phm_rule"], b}).reshape({d_out(), d_in()});
  }

  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    if (rank_ == 0) return {params["phm_rule"], params["phm_b"]};
    const at::Tensor s = params["phm_s"].transpose(0, 1).flatten(1, 2);  // [c, i rho]
    return {params["phm_rule"], s, params["phm_t"].flatten(0, 1)};       // [i rho, e]
  }

  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    const at::Tensor blocks = x.unflatten(1, {n_, -1}), a = as(prepared[0], x);  // [N, a, c]
    if (rank_ == 0) {
      const at::Tensor mixed = at::einsum("nac,iab->nbic", {blocks, a}).flatten(2, 3);
      return at::matmul(mixed, as(prepared[1], x).flatten(0, 1)).flatten(1, 2);
    }
    const at::Tensor inner = at::matmul(blocks, as(prepared[1], x)).unflatten(2, {n_, rank_});  // [N, a, i, rho]
    const at::Tensor mixed = at::einsum("naip,iab->nbip", {inner, a}).flatten(2, 3);
    return at::matmul(mixed, as(prepared[2], x)).flatten(1, 2);
  }

  static ParameterSpecs shared(const Options& options, const std::vector<MatrixSite>& /*sites*/) {
    return options.flag("shared_rule") ? ParameterSpecs{rule(options)} : ParameterSpecs{};
  }

 private:
  int64_t n_, rank_;
  bool exact_, shared_;
  ParameterSpec rule_;
};

const RegisterMatrix registrar{
    {"phm",
     "M^T = sum over i of A_i (x) s_i t_i, the A_i shared by all layers",
     "rho (d_in + d_out), and n^3 once",
     "Compacter, arXiv 2106.04647",
     {Option::integer("n", 4, "number of terms, and size of the A_i", 1),
      Option::integer("rank", 1, "rho, the rank of the B_i; 0 means full", 0),
      Option::flag("shared_rule", true, "share the A_i between layers"),
      Option::number("rule_std", 0.01, "standard deviation of the A_i at the start", 0),
      Option::choice("initial", "zero", "what starts at zero: t, or nothing as in the paper", {"zero", "paper"})},
     make_matrix<Phm>,
     &Phm::shared}};

}  // namespace
}  // namespace veneer
