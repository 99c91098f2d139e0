// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LoKr's Kronecker product (LyCORIS, arXiv 2309.14859): M = w1 (x) w2, scale alpha / r. The sizes split into factor
// pairs, the smaller parts for w1; a factor that is large against r is itself a product of rank r. Names, sizes, starts
// and keys are HF PEFT's.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/blocks.h"
#include "core/divisors.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

// [p, q], p <= q, p q = n: `factor` and its cofactor where it divides n, else the pair as square as p <= factor allows.
std::pair<int64_t, int64_t> split(int64_t n, int64_t factor) {
  if (factor > 0 && n % factor == 0) return {factor, n / factor};
  int64_t small = square_factors(n).first;
  if (factor > 0) small = largest_divisor(n, std::min(small, factor));
  return {small, n / small};
}

class LoKr final : public KroneckerProduct {
 public:
  LoKr(const Options& options, const MatrixSite& site)
      : KroneckerProduct(site),
        rank_(options.integer("rank")),
        initial_(options.text("initial")),
        scale_((options.number("alpha") == 0.0 ? static_cast<double>(rank_) : options.number("alpha")) /
               static_cast<double>(rank_)),
        out_(split(site.d_out, options.integer("decompose_factor"))),
        in_(split(site.d_in, options.integer("decompose_factor"))),
        whole1_(!options.flag("decompose_both") || 2 * rank_ >= std::max(out_.first, in_.first)),
        whole2_(2 * rank_ >= std::max(out_.second, in_.second)) {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = factor("lokr_w1", whole1_, out_.first, in_.first, zero_start() && initial_ == "default");
    // LyCORIS's zero is the last factor: w2, or b of w2 = a b.
    const bool zero = zero_start() && initial_ == "lycoris";
    ParameterSpecs second = factor("lokr_w2", whole2_, out_.second, in_.second, zero && whole2_);
    if (zero && !whole2_) second.back().initial = Initial::zeros();
    specs.insert(specs.end(), second.begin(), second.end());
    return specs;
  }

  std::vector<at::Tensor> prepare(const Params& params) const override {
    const auto whole = [&](const std::string& name, bool is_whole) {
      return is_whole ? params[name] : at::matmul(params[name + "_a"], params[name + "_b"]);
    };
    return {whole("lokr_w1", whole1_), whole("lokr_w2", whole2_)};
  }
  double scale() const override { return scale_; }

 private:
  ParameterSpecs factor(const std::string& name, bool whole, int64_t rows, int64_t columns, bool zero) const {
    const auto random = Initial::kaiming_uniform(std::sqrt(5.0));
    const auto first = zero ? Initial::zeros() : random;
    if (whole) return {{name, {rows, columns}, first, name + ".{adapter}"}};
    return {{name + "_a", {rows, rank_}, first, name + "_a.{adapter}"},
            {name + "_b", {rank_, columns}, random, name + "_b.{adapter}"}};
  }

  int64_t rank_;
  std::string initial_;
  double scale_;
  std::pair<int64_t, int64_t> out_, in_;
  bool whole1_, whole2_;
};

const RegisterMatrix registrar{
    {"lokr",
     "M = w1 (x) w2, large factors of rank r",
     "o1 i1 + o2 i2, or r (o2 + i2) for a factored w2",
     "LoKr (LyCORIS), arXiv 2309.14859",
     {Option::integer("rank", 8, "r, of factors larger than 2 r", 1),
      Option::number("alpha", 0.0, "numerator of the scale alpha / r; 0 means r, a scale of one", 0),
      Option::flag("decompose_both", false, "let w1 be of rank r too"),
      Option::integer("decompose_factor", -1, "wanted size of w1's sides; -1 means near the square root", -1),
      Option::choice("initial", "default", "what starts at zero: w1, or with lycoris w2", {"default", "lycoris"})},
     make_matrix<LoKr>}};

}  // namespace
}  // namespace veneer
