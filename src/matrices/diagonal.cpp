// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A diagonal matrix, M[i, i] = z[i]; the scalar form is z times the identity. Rectangular: zeros beyond the square
// part.
#include <ATen/ATen.h>

#include <algorithm>

#include "core/resized.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Diagonal final : public Matrix {
 public:
  Diagonal(const Options& options, const MatrixSite& site)
      : Matrix(site), scalar_(options.text("form") == "scalar"), size_(std::min(site.d_in, site.d_out)) {}

  ParameterSpecs parameters() const override {
    return {{"diagonal_z",
             {scalar_ ? 1 : size_},
             zero_start() ? Initial::zeros() : Initial::normal(0.0, 1.0),
             "diagonal_z.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor square = at::diag_embed(params["diagonal_z"].expand({size_}));
    return at::constant_pad_nd(square, {0, d_in() - size_, 0, d_out() - size_});
  }

  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override { return {params["diagonal_z"]}; }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return resized(x.narrow(1, 0, size_) * as(prepared[0], x), d_out());
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    const at::Tensor g = dy.narrow(1, 0, size_), products = g * x.narrow(1, 0, size_);
    at::Tensor dx;
    if (wants_x) dx = resized(g * as(prepared[0], g), d_in());
    return {dx, scalar_ ? products.sum().view(1) : products.sum(0)};
  }

 private:
  bool scalar_;
  int64_t size_;
};

const RegisterMatrix registrar{
    {"diagonal",
     "M[i, i] = z[i]",
     "min(d_out, d_in) (scalar form: 1)",
     "KronA's residual scale, arXiv 2212.10650; Hadamard adapters, arXiv 2407.11033",
     {Option::choice("form", "vector", "a number for each feature, or one for all", {"vector", "scalar"})},
     make_matrix<Diagonal>}};

}  // namespace
}  // namespace veneer
