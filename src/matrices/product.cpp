// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A product of structured matrices, M = M_1 M_2 ..., the last applied to the input first. M_1 starts at zero, the
// others at random.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/combined.h"
#include "veneer/check.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Product final : public Matrix {
 public:
  Product(const Options& options, const MatrixSite& site)
      : Matrix(site), factors_(options, "factors", sites(options, site)) {
    for (size_t k = 0; k < factors_.size(); ++k) scale_ *= factors_[k].scale();
    const auto parts = sites(options, site);
    narrow_ = parts.size() == 2 && 4 * parts[1].d_out <= std::min(site.d_in, site.d_out);
  }

  ParameterSpecs parameters() const override { return factors_.parameters(); }

  at::Tensor dense(const Params& params) const override {
    at::Tensor m = factors_[0].dense(factors_.params(params, 0));
    for (size_t k = 1; k < factors_.size(); ++k) m = at::matmul(m, factors_[k].dense(factors_.params(params, k)));
    return m;
  }
  // Two factors that meet in a narrow middle are those of a low-rank product, as LoRETTA's trains are.
  Form form() const override { return narrow_ ? Form::factors : Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    if (!narrow_) return factors_.prepare(params);
    return {factors_[1].dense(factors_.params(params, 1)), factors_[0].dense(factors_.params(params, 0))};
  }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    if (narrow_) return Matrix::product(x, prepared);
    at::Tensor y = x;
    for (size_t k = factors_.size(); k-- > 0;) y = factors_[k].product(y, Parts::prepared(prepared, k));
    return y;
  }
  at::Tensor build(const Params& params) const override {
    const auto prepared = prepare(params);
    if (narrow_) return at::matmul(prepared[1], prepared[0]);
    const auto type = wide_type(at::toRealValueType(prepared[0].scalar_type()));
    return product(at::eye(d_in(), prepared[0].options().dtype(type)), prepared).t();
  }
  double scale() const override { return scale_; }
  bool placed() const override { return factors_.placed(); }

  static ParameterSpecs shared(const Options& options, const std::vector<MatrixSite>& all) {
    std::vector<std::vector<MatrixSite>> each;
    for (const auto& site : all) each.push_back(sites(options, site));
    return Parts::shared(options, "factors", each);
  }

 private:
  // Between neighbours lie `sizes`, or min(d_in, d_out) each.
  static std::vector<MatrixSite> sites(const Options& options, const MatrixSite& site) {
    const size_t count = options.matrices("factors").size();
    const auto given = options.sizes("product", "sizes");
    VENEER_CHECK(given.empty() || given.size() + 1 == count, "product", "sizes must be ", count - 1,
                 " positive integers, one between each two factors, got ", options.value("sizes").dump());
    std::vector<MatrixSite> all(count, site);
    for (size_t k = 0; k + 1 < count; ++k) {
      const int64_t size = given.empty() ? std::min(site.d_in, site.d_out) : given[k];
      all[k].d_in = all[k + 1].d_out = size;
      all[k + 1].start = Start::random;
    }
    return all;
  }

  Parts factors_;
  double scale_ = 1.0;
  bool narrow_ = false;
};

const RegisterMatrix registrar{
    {"product",
     "M = M_1 M_2 ...",
     "the factors'",
     "structured matrices are closed under products",
     {Option::matrices("factors", R"(["diagonal", "circulant"])",
                       "the structured matrices multiplied, the last applied first"),
      Option::any("sizes", "[]", "sizes between the factors; none: min(d_in, d_out)", "list[int]")},
     make_matrix<Product>,
     &Product::shared}};

}  // namespace
}  // namespace veneer
