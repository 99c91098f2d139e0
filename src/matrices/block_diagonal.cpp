// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A block-diagonal matrix of n blocks [d_out / n, d_in / n].
#include <ATen/ATen.h>

#include <cmath>

#include "core/blocks.h"
#include "core/divisors.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t block_count(const Options& options, const MatrixSite& site) {
  const int64_t count = options.integer("blocks");
  if (count == 0) {
    const int64_t common = common_divisor("block_diagonal", site, "blocks=1");
    const int64_t found = largest_divisor(common, 8);
    return found > 1 ? found : common;  // one block would be a dense matrix
  }
  check_divides("block_diagonal", "blocks", count, site);
  return count;
}

class BlockDiagonal final : public Matrix {
 public:
  BlockDiagonal(const Options& options, const MatrixSite& site) : Matrix(site), blocks_(block_count(options, site)) {}

  ParameterSpecs parameters() const override {
    const int64_t p = d_in() / blocks_;
    const auto random = Initial::normal(0.0, 1.0 / std::sqrt(static_cast<double>(p)));
    return {{"block_diagonal_w",
             {blocks_, d_out() / blocks_, p},
             zero_start() ? Initial::zeros() : random,
             "block_diagonal_w.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override { return block_diagonal(params["block_diagonal_w"]); }
  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override { return {params["block_diagonal_w"]}; }
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    return block_product(x.unflatten(1, {blocks_, -1}), prepared[0]).flatten(1, 2);
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    auto gradients =
        block_pullback(x.unflatten(1, {blocks_, -1}), dy.unflatten(1, {blocks_, -1}), as(prepared[0], x), wants_x);
    if (wants_x) gradients[0] = gradients[0].flatten(1, 2);
    return gradients;
  }

 private:
  int64_t blocks_;
};

const RegisterMatrix registrar{
    {"block_diagonal",
     "M = diag(W_1, ..., W_n)",
     "d_out * d_in / n",
     "Monarch matrices, arXiv 2204.00595",
     {Option::integer("blocks", 0, "n; 0 means the largest common divisor up to 8, or gcd(d_out, d_in)", 0)},
     make_matrix<BlockDiagonal>}};

}  // namespace
}  // namespace veneer
