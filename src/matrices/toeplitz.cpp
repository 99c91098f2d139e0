// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A Toeplitz matrix, one number for each diagonal: M[i, j] = t[i - j + d_in - 1]. SURM (arXiv 2406.17740). x M^T is
// part of a circular convolution of length at least d_out + d_in - 1.
#include <ATen/ATen.h>

#include <cmath>

#include "core/convolution.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class GeneralToeplitz final : public Matrix {
 public:
  GeneralToeplitz(const Options& /*options*/, const MatrixSite& site)
      : Matrix(site), toeplitz_(site.d_in, site.d_out) {}

  ParameterSpecs parameters() const override {
    const auto random = Initial::normal(0.0, 1.0 / std::sqrt(static_cast<double>(d_in())));
    return {{"toeplitz_t", {d_out() + d_in() - 1}, zero_start() ? Initial::zeros() : random, "toeplitz_t.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override { return toeplitz_.dense(params["toeplitz_t"]); }
  at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const override {
    return toeplitz_.merged(weight, params["toeplitz_t"], scale);
  }
  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    return {toeplitz_.column(params["toeplitz_t"])};
  }
  bool tiled(const at::Tensor& x) const override { return toeplitz_.tiled(x); }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return toeplitz_.product(x, prepared[0]);
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    return toeplitz_.pullback(x, dy, prepared[0], wants_x);
  }

 private:
  Toeplitz toeplitz_;
};

const RegisterMatrix registrar{{"toeplitz",
                                "M[i, j] = t[i - j + d_in - 1]",
                                "d_out + d_in - 1",
                                "SURM, arXiv 2406.17740",
                                {},
                                make_matrix<GeneralToeplitz>}};

}  // namespace
}  // namespace veneer
