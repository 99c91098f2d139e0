// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Matrices of low displacement rank, sums of R products of two structured factors given by generators g_k, h_k [n],
// n = max(d_out, d_in), cut to d_out x d_in:
//   circulant    Z_1(g) Z_-1(h)                SURM (arXiv 2406.17740)
//   toeplitz     Z_1(g) Z_-1(h)^T              Sindhwani et al. 2015; arXiv 1810.02309, as the others
//   hankel       the same with its rows reversed
//   vandermonde  K(D, g) K(Z_0, h)^T           D diagonal and trained, |d| at most 1
//   subdiagonal  K(A, g) K(T, h)^T             A and T with trained sub-diagonals
// Z_1 and Z_-1 are circulant and skew-circulant, K(A, v) = [v, A v, A^2 v, ...].
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/convolution.h"
#include "core/convolution_chain.h"
#include "core/diagonals.h"
#include "core/krylov.h"
#include "core/limits.h"
#include "core/resized.h"
#include "veneer/check.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class LowDisplacementRank final : public Matrix {
 public:
  LowDisplacementRank(const Options& options, const MatrixSite& site)
      : Matrix(site),
        operator_(options.text("operator")),
        trained_(operator_ == "vandermonde" || operator_ == "subdiagonal"),
        rank_(options.integer("rank")),
        n_(std::max(site.d_in, site.d_out)),
        cyclic_(n_),
        negacyclic_(n_, /*negacyclic=*/true),
        chain_(negacyclic_, cyclic_, n_) {
    VENEER_CHECK(operator_ != "subdiagonal" || n_ > 1, "low_displacement_rank",
                 "a trained sub-diagonal needs a size of at least 2, got 1");
  }

  ParameterSpecs parameters() const override {
    const auto n = static_cast<double>(n_);
    const bool surm = operator_ == "circulant" && zero_start();
    ParameterSpecs specs;
    const auto add = [&](const std::string& name, std::vector<int64_t> shape, Initial initial) {
      specs.push_back({"ldr_" + name, std::move(shape), initial, "ldr_" + name + ".{adapter}"});
    };
    add("g", {rank_, n_}, zero_start() ? Initial::zeros() : Initial::normal(0.0, 1.0 / std::sqrt(n)));
    add("h", {rank_, n_}, Initial::normal(0.0, surm ? 0.02 : 1.0 / std::sqrt(static_cast<double>(rank_) * n)));
    if (operator_ == "vandermonde") add("d", {n_}, Initial::uniform(-0.7, 0.7));
    if (operator_ == "subdiagonal") {
      add("a", {n_ - 1}, Initial::ones());
      add("t", {n_ - 1}, Initial::ones());
    }
    return specs;
  }

  at::Tensor dense(const Params& params) const override {
    const at::Tensor m = at::matmul(left(params), right(params)).sum(0);
    return (operator_ == "hankel" ? m.flip(0) : m).narrow(0, 0, d_out()).narrow(1, 0, d_in());
  }

  at::Tensor build(const Params& params) const override {
    return grows_here(params) ? onto({}, params, 1.0) : dense(params);
  }
  at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const override {
    return grows_here(params) ? onto(weight, params, scale) : Matrix::merged(weight, params, scale);
  }

  // Trained operators have no short transform: their dense matrix is the fast path.
  Form form() const override { return trained_ ? Form::dense : Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    if (trained_) return {dense(params)};
    const at::Tensor& h = params["ldr_h"];
    return {params["ldr_g"], operator_ == "circulant" ? h : negacyclic_.transposed(h)};
  }

  // A narrow one is multiplied dense.
  bool tiled(const at::Tensor& x) const override { return !trained_ && !is_narrow(d_out(), d_in()) && chain_.tiled(x); }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    if (trained_) return Matrix::product(x, prepared);
    if (operator_ != "hankel") return chain_.product(x, prepared[1], prepared[0], d_out());
    return resized(chain_.product(x, prepared[1], prepared[0], n_).flip(1), d_out());
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    if (trained_) return Matrix::pullback(x, dy, prepared, wants_x);
    const at::Tensor g = operator_ == "hankel" ? resized(dy, n_).flip(1) : dy;
    auto found = chain_.pullback(x, g, prepared[1], prepared[0], wants_x);
    std::swap(found[1], found[2]);
    return found;
  }

 private:
  // The factors [R, n, n], differentiable.
  at::Tensor left(const Params& params) const {
    const at::Tensor& g = params["ldr_g"];
    if (operator_ == "vandermonde") return powers(params["ldr_d"].clamp(-1.0, 1.0), g);
    return operator_ == "subdiagonal" ? scaled_shifts(params["ldr_a"], g) : cyclic_.dense(g);
  }
  at::Tensor right(const Params& params) const {
    const at::Tensor& h = params["ldr_h"];
    if (operator_ == "circulant") return negacyclic_.dense(h);
    if (operator_ == "vandermonde") return shifts(h).mT();
    return (operator_ == "subdiagonal" ? scaled_shifts(params["ldr_t"], h) : negacyclic_.dense(h)).mT();
  }

  bool grows_here(const Params& params) const {
    return (operator_ == "circulant" || operator_ == "toeplitz") && grows(params["ldr_g"]);
  }

  // Along a diagonal each product grows by an outer product: of the sum over k a last term leaves, and comes back as
  // the first with the other sign.
  at::Tensor onto(const at::Tensor& weight, const Params& params, double scale) const {
    const at::Tensor g = wide(params["ldr_g"]), h = wide(params["ldr_h"]);
    const at::Tensor right = operator_ == "toeplitz" ? 2.0 * h : -2.0 * h.flip(1).roll(1, 1);
    return grown(*this, g.t(), right, prepare(params), weight, scale);
  }

  std::string operator_;
  bool trained_;  // D, or A and T
  int64_t rank_;
  int64_t n_;
  Convolution cyclic_;
  Convolution negacyclic_;
  ConvolutionChain chain_;  // h first
};

const RegisterMatrix registrar{{"low_displacement_rank",
                                "M = sum of R products of structured factors, Z_1(g) Z_-1(h) in SURM",
                                "2 R max(d_out, d_in) (vandermonde: + n; subdiagonal: + 2 (n - 1))",
                                "SURM, arXiv 2406.17740; arXiv 1810.02309",
                                {Option::integer("rank", 1, "R, the number of products", 1),
                                 Option::choice("operator", "circulant", "what the factors are made of",
                                                {"circulant", "toeplitz", "hankel", "vandermonde", "subdiagonal"})},
                                make_matrix<LowDisplacementRank>}};

}  // namespace
}  // namespace veneer
