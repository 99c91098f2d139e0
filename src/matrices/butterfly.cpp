// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A butterfly matrix: diag(z) B_(m-1) ... B_0 of size n = 2^m >= max(d_out, d_in), cut to d_out x d_in. Stage i mixes
// the features p and p + 2^i by 2 x 2 matrices w[i, f], which start as rotations; z, the rescaling of rows, starts at
// zero.
#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

#include "core/resized.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Butterfly final : public Matrix {
 public:
  Butterfly(const Options& /*options*/, const MatrixSite& site)
      : Matrix(site),
        size_(
            static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max({site.d_in, site.d_out, int64_t{2}}))))),
        stages_(std::bit_width(static_cast<uint64_t>(size_)) - 1) {}

  ParameterSpecs parameters() const override {
    return {{"butterfly_w", {stages_, size_ / 2, 2, 2}, Initial::rotation(), "butterfly_w.{adapter}"},
            {"butterfly_z", {d_out()}, zero_start() ? Initial::zeros() : Initial::ones(), "butterfly_z.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor& w = params["butterfly_w"];
    return product(at::eye(d_in(), w.options()), prepare(params)).t();
  }

  Form form() const override { return Form::other; }
  bool costly() const override { return true; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    return {params["butterfly_w"], params["butterfly_z"]};
  }

  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    at::Tensor y = resized(x, size_);
    for (int64_t i = 0; i < stages_; ++i) {
      const int64_t stride = int64_t{1} << i;
      const at::Tensor pairs = y.unflatten(1, {-1, 2, stride});  // [N, n/2t, 2, t]
      const at::Tensor w = as(prepared[0].select(0, i), x).unflatten(0, {-1, stride}).permute({0, 2, 3, 1});
      // w [n/2t, 2, 2, t]: the two outputs of a pair from its two inputs.
      y = (pairs.unsqueeze(2) * w).sum(3).flatten(1, 3);
    }
    return resized(y, d_out()) * as(prepared[1], x);
  }

 private:
  int64_t size_, stages_;
};

const RegisterMatrix registrar{{"butterfly",
                                "M = diag(z) B_(m-1) ... B_0, stages of 2 x 2 matrices",
                                "2 n log2(n) + d_out, n = 2^m >= max(d_out, d_in)",
                                "butterfly factorisations, arXiv 1903.05895",
                                {},
                                make_matrix<Butterfly>}};

}  // namespace
}  // namespace veneer
