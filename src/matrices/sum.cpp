// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A sum of structured matrices, each with its own scale.
#include <ATen/ATen.h>

#include "core/combined.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Sum final : public Matrix {
 public:
  Sum(const Options& options, const MatrixSite& site) : Matrix(site), terms_(options, "terms", sites(options, site)) {}

  ParameterSpecs parameters() const override { return terms_.parameters(); }

  at::Tensor dense(const Params& params) const override {
    return total([&](size_t k) { return terms_[k].dense(terms_.params(params, k)); });
  }
  Form form() const override { return Form::other; }
  at::Tensor build(const Params& params) const override {
    return total([&](size_t k) { return terms_[k].build(terms_.params(params, k)); });
  }
  std::vector<at::Tensor> prepare(const Params& params) const override { return terms_.prepare(params); }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return total([&](size_t k) { return terms_[k].product(x, Parts::prepared(prepared, k)); });
  }
  bool placed() const override { return terms_.placed(); }

  static ParameterSpecs shared(const Options& options, const std::vector<MatrixSite>& all) {
    std::vector<std::vector<MatrixSite>> each;
    for (const auto& site : all) each.push_back(sites(options, site));
    return Parts::shared(options, "terms", each);
  }

 private:
  static std::vector<MatrixSite> sites(const Options& options, const MatrixSite& site) {
    return {options.matrices("terms").size(), site};
  }

  template <class Term>
  at::Tensor total(const Term& term) const {
    at::Tensor sum = term(0) * terms_[0].scale();
    for (size_t k = 1; k < terms_.size(); ++k) sum = sum.add(term(k), terms_[k].scale());
    return sum;
  }

  Parts terms_;
};

const RegisterMatrix registrar{
    {"sum",
     "M = M_1 + M_2 + ...",
     "the terms'",
     "structured matrices are closed under sums",
     {Option::matrices("terms", R"(["low_rank", "diagonal"])", "the structured matrices added")},
     make_matrix<Sum>,
     &Sum::shared}};

}  // namespace
}  // namespace veneer
