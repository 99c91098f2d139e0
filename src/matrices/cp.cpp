// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LoRTA's canonical polyadic decomposition (arXiv 2410.04060): the updates of q, k, v and o in all layers are slices of
// one tensor, D = A diag(C_h[head] * C_m[matrix] * C_l[layer]) B for each head, [d, d_h], heads side by side. A [d, r],
// B [r, d_h], C_h [H, r], C_m [4, r], C_l [L, r] are shared; a layer has nothing of its own. q, k, v: M = s D^T, heads
// along the output; o: M = s D, heads along the input (`reference`: all as o, which is what the authors' code does).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/attention.h"
#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t row_of(const Options& options, const MatrixSite& site) {
  const std::string role = options.text("role") == "auto" ? site.role : options.text("role");
  return attention_projection("cp", role,
                              "give the option role (AdditiveConfig(matrix={\"name\": \"cp\", \"role\": ...}))");
}

int64_t layer_of(const Options& options, const MatrixSite& site) {
  const int64_t layer = options.integer("layer") < 0 ? site.layer : options.integer("layer");
  VENEER_CHECK(layer >= 0, "cp", "the module's path names no layer; give the option layer");
  return layer;
}

struct Sizes {
  int64_t model = 0;      // d
  int64_t projected = 0;  // H d_h, or less where keys and values have fewer heads
};

// Heads lie along the output of q, k, v and along the input of o.
bool heads_along_output(const Options& options, const MatrixSite& site) {
  return row_of(options, site) < 3 && options.text("orientation") == "heads";
}

Sizes sizes_of(const Options& options, const MatrixSite& site) {
  return heads_along_output(options, site) ? Sizes{site.d_in, site.d_out} : Sizes{site.d_out, site.d_in};
}

class Cp final : public Matrix {
 public:
  Cp(const Options& options, const MatrixSite& site)
      : Matrix(site),
        matrix_(row_of(options, site)),
        layer_(layer_of(options, site)),
        transposed_(heads_along_output(options, site)),
        rank_(options.integer("rank")),
        alpha_(options.number("alpha")) {}

  ParameterSpecs parameters() const override { return {}; }

  at::Tensor dense(const Params& params) const override {
    const auto factors = prepare(params);
    return at::matmul(factors[1], factors[0]);
  }

  // D = A E with E[r, (h, j)] = c[h, r] B[r, j]: the two factors of a low-rank product.
  std::vector<at::Tensor> prepare(const Params& params) const override {
    const at::Tensor& b = params["cp_B"];
    const int64_t heads = (transposed_ ? d_out() : d_in()) / b.size(1);
    const at::Tensor c = params["cp_heads"].narrow(0, 0, heads) * params["cp_matrices"].select(0, matrix_) *
                         params["cp_layers"].select(0, layer_);                // [H, r]
    const at::Tensor e = (c.t().unsqueeze(2) * b.unsqueeze(1)).flatten(1, 2);  // [r, H d_h]
    const at::Tensor& a = params["cp_A"];
    return transposed_ ? std::vector<at::Tensor>{a.t(), e.t()} : std::vector<at::Tensor>{e, a};
  }

  Form form() const override { return Form::factors; }
  double scale() const override { return (alpha_ == 0.0 ? 1.0 : alpha_ / static_cast<double>(rank_)); }
  bool placed() const override { return true; }

  static ParameterSpecs shared(const Options& options, const std::vector<MatrixSite>& sites) {
    Sizes largest;
    int64_t layers = 0;
    for (const auto& site : sites) {
      const Sizes sizes = sizes_of(options, site);
      VENEER_CHECK(largest.model == 0 || largest.model == sizes.model, "cp",
                   "all layers must have one model size, got ", largest.model, " and ", sizes.model);
      largest = {sizes.model, std::max(largest.projected, sizes.projected)};
      layers = std::max(layers, layer_of(options, site) + 1);
    }
    const int64_t heads = options.integer("heads"), rank = options.integer("rank");
    for (const auto& site : sites) {
      const int64_t projected = sizes_of(options, site).projected;
      VENEER_CHECK(largest.projected % heads == 0 && projected % (largest.projected / heads) == 0, "cp",
                   "heads must divide ", projected, ", got ", heads);
    }
    const bool zero = sites.front().start == Start::zero;
    const auto random = Initial::kaiming_uniform(std::sqrt(5.0)), factor = Initial::kaiming_uniform(0.0);
    return {{"cp_A", {largest.model, rank}, random, "cp_A.{adapter}"},
            {"cp_B", {rank, largest.projected / heads}, zero ? Initial::zeros() : random, "cp_B.{adapter}"},
            {"cp_heads", {heads, rank}, factor, "cp_heads.{adapter}"},
            {"cp_matrices", {4, rank}, factor, "cp_matrices.{adapter}"},
            {"cp_layers", {layers, rank}, factor, "cp_layers.{adapter}"}};
  }

 private:
  int64_t matrix_, layer_;
  bool transposed_;
  int64_t rank_;
  double alpha_;
};

const RegisterMatrix registrar{
    {"cp",
     "M^T = A diag(c_h) B for each head, c_h = C_h[head] * C_m[matrix] * C_l[layer], all shared",
     "r (d + d_h + H + 4 + L) for a whole model",
     "LoRTA, arXiv 2410.04060",
     {Option::integer("rank", 4, "r, the number of components", 1),
      Option::number("alpha", 0.0, "numerator of the scale alpha / r; 0 means a scale of one", 0),
      Option::integer("heads", 1, "H, the model's attention heads", 1),
      Option::choice("orientation", "heads",
                     "heads along the output of q, k, v, or along the input as in the authors' code",
                     {"heads", "reference"}),
      Option::choice("role", "auto", "which projection a layer is; auto: by its name", {"auto", "q", "k", "v", "o"}),
      Option::integer("layer", -1, "index of its block; -1: from its path", -1)},
     make_matrix<Cp>,
     &Cp::shared}};

}  // namespace
}  // namespace veneer
