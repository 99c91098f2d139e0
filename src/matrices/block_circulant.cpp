// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// C3A's block-circular convolution (arXiv 2407.19342): m x q blocks of size b, each circulant by ROWS,
// M[i b + s, j b + t] = w[i, j, (t - s) mod b] / kappa. kappa is d_in in HF PEFT's code and 1 in the paper's formula.
#include <ATen/ATen.h>

#include <cmath>

#include "core/circulant_blocks.h"
#include "core/divisors.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t block_size(const Options& options, const MatrixSite& site) {
  const int64_t size = options.integer("block_size");
  if (size == 0) return common_divisor("block_circulant", site, "block_size=1");
  check_divides("block_circulant", "block_size", size, site);
  return size;
}

class BlockCirculant final : public CirculantBlocks {
 public:
  BlockCirculant(const Options& options, const MatrixSite& site)
      : CirculantBlocks(site, block_size(options, site)),
        initial_(options.text("initial")),
        kappa_(options.text("normalization") == "input_size" ? static_cast<double>(site.d_in) : 1.0) {}

  ParameterSpecs parameters() const override {
    // HF PEFT's bounds. They do not keep variances, and neither does 1 / kappa.
    const double bound = initial_ == "kaiming_uniform" ? std::sqrt(1.0 / static_cast<double>(d_in()))
                                                       : std::sqrt(6.0 / static_cast<double>(d_in() + d_out()));
    const auto random = initial_ == "gaussian" ? Initial::normal(0.0, 1.0) : Initial::uniform(-bound, bound);
    return {{"c3a_kernel", shape(), zero_start() ? Initial::zeros() : random, "c3a_kernel.{adapter}"}};
  }

 private:
  // The first columns of blocks given by their first rows: c[0] = w[0], c[k] = w[b - k].
  at::Tensor columns(const Params& params) const override { return params["c3a_kernel"].flip(-1).roll(1, -1) / kappa_; }

  std::string initial_;
  double kappa_;
};

const RegisterMatrix registrar{
    {"block_circulant",
     "M[i b + s, j b + t] = w[i, j, (t - s) mod b] / kappa",
     "d_out * d_in / b",
     "C3A, arXiv 2407.19342",
     {Option::integer("block_size", 0, "b; 0 means gcd(d_out, d_in)", 0),
      Option::choice("normalization", "input_size", "kappa: d_in as in HF PEFT, or 1 as in the paper",
                     {"input_size", "none"}),
      Option::choice("initial", "xavier_uniform", "how a random start is drawn",
                     {"xavier_uniform", "kaiming_uniform", "gaussian"})},
     make_matrix<BlockCirculant>}};

}  // namespace
}  // namespace veneer
