// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Kronecker products. SURM's form (arXiv 2406.17740): M = B (x) A with A [r, d_in / r], B [d_out / r, r], r a common
// divisor, scale alpha / r. A chain: M = F_1 (x) ... (x) F_K, any factors whose sizes multiply to the matrix's (KronA,
// arXiv 2212.10650, has two). The products go factor by factor.
#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/blocks.h"
#include "core/divisors.h"
#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

// [o_k, i_k] of each factor.
using Shapes = std::vector<std::pair<int64_t, int64_t>>;

Shapes given(const nlohmann::json& value, const MatrixSite& site) {
  Shapes shapes;
  int64_t d_out = 1, d_in = 1;
  bool sound = value.is_array();
  for (size_t k = 0; sound && k < value.size(); ++k) {
    sound = value[k].is_array() && value[k].size() == 2 && value[k][0].is_number_integer() &&
            value[k][1].is_number_integer() && value[k][0] > 0 && value[k][1] > 0;
    if (!sound) break;
    shapes.emplace_back(value[k][0].get<int64_t>(), value[k][1].get<int64_t>());
    d_out *= shapes.back().first;
    d_in *= shapes.back().second;
  }
  VENEER_CHECK(sound && d_out == site.d_out && d_in == site.d_in, "kronecker",
               "factors must be a list of [rows, columns] that multiply to [", site.d_out, ", ", site.d_in, "], got ",
               value.dump());
  return shapes;
}

class Kronecker final : public KroneckerProduct {
 public:
  Kronecker(const Options& options, const MatrixSite& site)
      : KroneckerProduct(site), surm_(options.text("form") == "surm") {
    if (surm_) {
      const int64_t largest = std::max(site.d_in, site.d_out);
      int64_t r = options.integer("rank");
      if (r == 0) {
        const auto root = static_cast<int64_t>(std::sqrt(static_cast<double>(largest)));
        r = largest_divisor(std::gcd(site.d_in, site.d_out), root);
      }
      check_divides("kronecker", "rank", r, site);
      shapes_ = {{site.d_out / r, r}, {r, site.d_in / r}};
      scale_ = options.number("alpha") / static_cast<double>(r);
    } else if (options.value("factors").empty()) {
      const auto [o1, o2] = square_factors(site.d_out);
      const auto [i1, i2] = square_factors(site.d_in);
      shapes_ = {{o1, i1}, {o2, i2}};
    } else {
      shapes_ = given(options.value("factors"), site);
    }
  }

  ParameterSpecs parameters() const override {
    // All but one are random: SURM's zero is B, the first factor, a chain's the last.
    ParameterSpecs specs;
    for (size_t k = 0; k < shapes_.size(); ++k) {
      const bool zero = zero_start() && k == (surm_ ? 0 : shapes_.size() - 1);
      const std::string name = this->name(k);
      specs.push_back({name,
                       {shapes_[k].first, shapes_[k].second},
                       zero ? Initial::zeros() : Initial::kaiming_uniform(std::sqrt(5.0)),
                       name + ".{adapter}"});
    }
    return specs;
  }

  std::vector<at::Tensor> prepare(const Params& params) const override {
    std::vector<at::Tensor> factors;
    for (size_t k = 0; k < shapes_.size(); ++k) factors.push_back(params[name(k)]);
    return factors;
  }
  double scale() const override { return scale_; }

 private:
  std::string name(size_t k) const {
    return surm_ ? (k == 0 ? "kronecker_B" : "kronecker_A") : "kronecker_" + std::to_string(k + 1);
  }

  bool surm_;
  Shapes shapes_;
  double scale_ = 1.0;
};

const RegisterMatrix registrar{
    {"kronecker",
     "M = B (x) A, or F_1 (x) ... (x) F_K",
     "d_in + d_out (chain: sum of o_k i_k)",
     "SURM, arXiv 2406.17740; KronA, arXiv 2212.10650",
     {Option::choice("form", "surm", "SURM's two factors of inner size r, or a chain", {"surm", "chain"}),
      Option::integer("rank", 0, "r; 0 means the largest common divisor up to sqrt(max(d_out, d_in))", 0),
      Option::number("alpha", 1.0, "SURM's form is scaled by alpha / r"),
      Option::any("factors", "[]", "sizes [rows, columns] of a chain's factors; none: two near-square ones",
                  "list[list[int]]")},
     make_matrix<Kronecker>}};

}  // namespace
}  // namespace veneer
