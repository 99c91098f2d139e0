// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A skew-circulant matrix Z_-1(h): M[i, j] = h[i - j], and -h[i - j + n] above the diagonal, n = max(d_out, d_in), cut
// to d_out x d_in. x M^T is a negacyclic convolution.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/convolution.h"
#include "core/limits.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class SkewCirculant final : public Matrix {
 public:
  SkewCirculant(const Options& /*options*/, const MatrixSite& site)
      : Matrix(site), n_(std::max(site.d_in, site.d_out)), negacyclic_(n_, /*negacyclic=*/true) {}

  ParameterSpecs parameters() const override {
    const auto random = Initial::normal(0.0, 1.0 / std::sqrt(static_cast<double>(d_in())));
    return {{"skew_circulant_h", {n_}, zero_start() ? Initial::zeros() : random, "skew_circulant_h.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    return negacyclic_.dense(params["skew_circulant_h"]).narrow(0, 0, d_out()).narrow(1, 0, d_in());
  }

  at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const override {
    return negacyclic_.merged(weight, params["skew_circulant_h"], scale);
  }

  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override { return {params["skew_circulant_h"]}; }
  // A narrow one is multiplied dense.
  bool tiled(const at::Tensor& x) const override { return !is_narrow(d_out(), d_in()) && negacyclic_.tiled(x); }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return negacyclic_.product(x, prepared[0], d_out());
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    return negacyclic_.pullback(x, dy, prepared[0], wants_x);
  }

 private:
  int64_t n_;
  Convolution negacyclic_;
};

const RegisterMatrix registrar{{"skew_circulant",
                                "M[i, j] = h[i - j], -h[i - j + n] above the diagonal",
                                "max(d_out, d_in)",
                                "SURM, arXiv 2406.17740",
                                {},
                                make_matrix<SkewCirculant>}};

}  // namespace
}  // namespace veneer
