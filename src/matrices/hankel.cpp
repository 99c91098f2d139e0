// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A Hankel matrix, one number for each anti-diagonal: M[i, j] = h[i + j], a Toeplitz matrix of the reversed input.
#include <ATen/ATen.h>

#include <cmath>

#include "core/convolution.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Hankel final : public Matrix {
 public:
  Hankel(const Options& /*options*/, const MatrixSite& site) : Matrix(site), toeplitz_(site.d_in, site.d_out) {}

  ParameterSpecs parameters() const override {
    const auto random = Initial::normal(0.0, 1.0 / std::sqrt(static_cast<double>(d_in())));
    return {{"hankel_h", {d_out() + d_in() - 1}, zero_start() ? Initial::zeros() : random, "hankel_h.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override { return params["hankel_h"].unfold(0, d_in(), 1); }
  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    return {toeplitz_.column(params["hankel_h"])};
  }
  bool tiled(const at::Tensor& x) const override { return toeplitz_.tiled(x); }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return toeplitz_.product(x.flip(1), prepared[0]);
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    auto gradients = toeplitz_.pullback(x.flip(1), dy, prepared[0], wants_x);
    if (wants_x) gradients[0] = gradients[0].flip(1);
    return gradients;
  }

 private:
  Toeplitz toeplitz_;
};

const RegisterMatrix registrar{{"hankel",
                                "M[i, j] = h[i + j]",
                                "d_out + d_in - 1",
                                "low displacement rank, arXiv 1810.02309",
                                {},
                                make_matrix<Hankel>}};

}  // namespace
}  // namespace veneer
