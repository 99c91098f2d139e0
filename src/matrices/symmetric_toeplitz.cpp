// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Symmetric Toeplitz matrices T(t)[i, j] = t[|i - j|], SURM (arXiv 2406.17740): M = T(b) T(a) as in the paper's update
// of a weight, T(a * b) as in its adapter layer, or one T(t). Rectangular: of size n = max(d_out, d_in), cut to d_out x
// d_in.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/convolution.h"
#include "core/convolution_chain.h"
#include "core/diagonals.h"
#include "core/limits.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class SymmetricToeplitz final : public Matrix {
 public:
  SymmetricToeplitz(const Options& options, const MatrixSite& site)
      : Matrix(site),
        form_(options.text("form")),
        n_(std::max(site.d_in, site.d_out)),
        rows_(form_ == "product" ? n_ : site.d_out),
        columns_(form_ == "product" ? n_ : site.d_in),
        toeplitz_(columns_, rows_),
        chain_(toeplitz_.convolution(), toeplitz_.convolution(), n_) {}

  ParameterSpecs parameters() const override {
    const double std = 1.0 / std::sqrt(static_cast<double>(n_));
    const auto spec = [&](const std::string& t, const Initial& random, const Initial& zero) {
      const std::string name = "symmetric_toeplitz_" + t;
      return ParameterSpec{name, {n_}, zero_start() ? zero : random, name + ".{adapter}"};
    };
    const auto normal = Initial::normal(0.0, std), zeros = Initial::zeros();
    if (form_ == "single") return {spec("t", normal, zeros)};
    return {spec("a", normal, Initial::normal(0.0, 0.02)),
            spec("b", form_ == "product" ? normal : Initial::ones(), zeros)};
  }

  at::Tensor dense(const Params& params) const override {
    at::Tensor m;
    for (const at::Tensor& t : factors(params)) {
      const at::Tensor factor = toeplitz_.dense(diagonals(t));
      m = m.defined() ? at::matmul(factor, m) : factor;
    }
    return m.narrow(0, 0, d_out()).narrow(1, 0, d_in());
  }

  at::Tensor build(const Params& params) const override {
    return grows_here(params) ? onto({}, params, 1.0) : dense(params);
  }
  at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const override {
    if (grows_here(params)) return onto(weight, params, scale);
    if (form_ == "product") return Matrix::merged(weight, params, scale);
    return toeplitz_.merged(weight, diagonals(factors(params)[0]), scale);
  }

  Form form() const override { return Form::other; }
  bool costly() const override { return form_ == "product"; }  // seven transforms of twice the length
  std::vector<at::Tensor> prepare(const Params& params) const override {
    std::vector<at::Tensor> columns;
    for (const at::Tensor& t : factors(params)) {
      const at::Tensor column = toeplitz_.column(diagonals(t));
      columns.push_back(form_ == "product" ? column.unsqueeze(0) : column);  // a chain of one
    }
    return columns;
  }

  // A narrow one is multiplied dense.
  bool tiled(const at::Tensor& x) const override {
    return form_ == "product" ? !is_narrow(d_out(), d_in()) && chain_.tiled(x) : toeplitz_.tiled(x);
  }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    if (form_ == "product") return chain_.product(x, prepared[0], prepared[1], d_out());
    return toeplitz_.product(x, prepared[0]);
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    return form_ == "product" ? chain_.pullback(x, dy, prepared[0], prepared[1], wants_x)
                              : toeplitz_.pullback(x, dy, prepared[0], wants_x);
  }

 private:
  bool grows_here(const Params& params) const { return form_ == "product" && grows(params.tensors()[0]); }

  // Along a diagonal T(b) T(a) grows by an outer product at each end of the sum: sum over k of b|i - k| a|k - j| gains
  // k = -1 and loses k = n - 1.
  at::Tensor onto(const at::Tensor& weight, const Params& params, double scale) const {
    const auto all = factors(params);
    const at::Tensor a = wide(all[0]), b = wide(all[1]);
    return grown(*this, at::stack({b, wrapped(b)}, 1), at::stack({a, -wrapped(a)}), prepare(params), weight, scale);
  }

  // In the order they are applied.
  std::vector<at::Tensor> factors(const Params& params) const {
    if (form_ == "single") return {params["symmetric_toeplitz_t"]};
    const at::Tensor &a = params["symmetric_toeplitz_a"], &b = params["symmetric_toeplitz_b"];
    return form_ == "product" ? std::vector<at::Tensor>{a, b} : std::vector<at::Tensor>{a * b};
  }

  // Of a factor, from the first row's last to the first column's last.
  at::Tensor diagonals(const at::Tensor& t) const {
    return at::cat({t.narrow(0, 1, columns_ - 1).flip(0), t.narrow(0, 0, rows_)});
  }

  // t[n - i].
  static at::Tensor wrapped(const at::Tensor& t) { return t.flip(0).roll(1); }

  std::string form_;
  int64_t n_;
  int64_t rows_, columns_;  // of a factor
  Toeplitz toeplitz_;
  ConvolutionChain chain_;
};

const RegisterMatrix registrar{
    {"symmetric_toeplitz",
     "M = T(b) T(a), T(t)[i, j] = t[|i - j|]",
     "2 * max(d_out, d_in) (single form: half)",
     "SURM, arXiv 2406.17740",
     {Option::choice("form", "product", "T(b) T(a), T(a * b), or one T(t)", {"product", "elementwise", "single"})},
     make_matrix<SymmetricToeplitz>}};

}  // namespace
}  // namespace veneer
