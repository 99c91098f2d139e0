// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A Monarch matrix as in MoRe (arXiv 2408.17383): M = P_1 L P_2 R, two block-diagonal factors of k blocks, R's [q, p]
// and L's [s, q], with fixed permutations P_1, P_2 that send each block of R to every block of L. Sizes that k does not
// divide are padded with zeros, and cut.
#include <ATen/ATen.h>

#include <cmath>

#include "core/blocks.h"
#include "core/resized.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Monarch final : public Matrix {
 public:
  Monarch(const Options& options, const MatrixSite& site)
      : Matrix(site),
        blocks_(options.integer("blocks")),
        rank_(options.integer("rank")),
        p_((site.d_in + blocks_ - 1) / blocks_),
        s_((site.d_out + blocks_ - 1) / blocks_) {}

  ParameterSpecs parameters() const override {
    const double right = 1.0 / std::sqrt(static_cast<double>(p_)), left = 1.0 / std::sqrt(static_cast<double>(rank_));
    return {{"monarch_w1", {blocks_, rank_, p_}, Initial::uniform(-right, right), "monarch_w1.{adapter}"},
            {"monarch_w2",
             {blocks_, s_, rank_},
             zero_start() ? Initial::zeros() : Initial::uniform(-left, left),
             "monarch_w2.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override {
    // Row f of R is index (r, l) = divmod(f, k) of L's input; L's output (l, s) is row s k + l.
    const at::Tensor right = block_diagonal(params["monarch_w1"]).unflatten(0, {rank_, blocks_});  // [r, l, d_in]
    const at::Tensor m = at::einsum("lsr,rlj->slj", {params["monarch_w2"], right}).flatten(0, 1);
    return m.narrow(0, 0, d_out()).narrow(1, 0, d_in());
  }

  Form form() const override { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    return {params["monarch_w1"], params["monarch_w2"]};
  }

  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const override {
    const at::Tensor inner = block_product(resized(x, blocks_ * p_).unflatten(1, {blocks_, p_}), prepared[0]);
    const at::Tensor mixed = inner.flatten(1, 2).unflatten(1, {rank_, blocks_}).transpose(1, 2);  // [N, l, r]
    return resized(block_product(mixed, prepared[1]).transpose(1, 2).flatten(1, 2), d_out());
  }
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const override {
    const at::Tensor w1 = as(prepared[0], x), w2 = as(prepared[1], x);
    const at::Tensor blocks = resized(x, blocks_ * p_).unflatten(1, {blocks_, p_});
    const at::Tensor mixed = block_product(blocks, w1).flatten(1, 2).unflatten(1, {rank_, blocks_}).transpose(1, 2);
    const at::Tensor g = resized(dy, s_ * blocks_).unflatten(1, {s_, blocks_}).transpose(1, 2);  // [N, l, s]
    const auto left = block_pullback(mixed, g, w2, true);
    const at::Tensor inner = left[0].transpose(1, 2).flatten(1, 2).unflatten(1, {blocks_, rank_});
    const auto right = block_pullback(blocks, inner, w1, wants_x);
    return {wants_x ? resized(right[0].flatten(1, 2), d_in()) : at::Tensor(), right[1], left[1]};
  }

 private:
  int64_t blocks_, rank_, p_, s_;
};

const RegisterMatrix registrar{{"monarch",
                                "M = P_1 L P_2 R, L and R block-diagonal of k blocks",
                                "k q (ceil(d_in / k) + ceil(d_out / k))",
                                "MoRe, arXiv 2408.17383",
                                {Option::integer("blocks", 4, "k, the blocks of each factor", 1),
                                 Option::integer("rank", 4, "q, the rows of a block of R", 1)},
                                make_matrix<Monarch>}};

}  // namespace
}  // namespace veneer
