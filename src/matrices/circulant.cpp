// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// SURM's circulant matrix (arXiv 2406.17740): M[i, j] = c[(i - j) mod d], c the first column, c = a * b elementwise in
// the product form. Rectangular: m x q blocks of size g = gcd(d_out, d_in), each circulant by columns. x M^T is a
// circular convolution: irfft(rfft(x) * rfft(c)), in float32 at least.
#include <ATen/ATen.h>

#include <cmath>

#include "core/circulant_blocks.h"
#include "core/divisors.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t block_size(const Options& options, const MatrixSite& site) {
  const int64_t size = options.integer("block_size");
  if (size == 0) return common_divisor("circulant", site, "block_size with padding=true");
  if (!options.flag("padding")) check_divides("circulant", "block_size", size, site, ", or set padding=true");
  return size;
}

class Circulant final : public CirculantBlocks {
 public:
  Circulant(const Options& options, const MatrixSite& site)
      : CirculantBlocks(site, block_size(options, site)), product_(options.text("form") == "product") {}

  ParameterSpecs parameters() const override {
    std::vector<int64_t> shape = this->shape();
    if (shape[0] == 1 && shape[1] == 1) shape = {shape[2]};
    // Random starts keep the variance of the input: each output sums d_in terms.
    const double std = 1.0 / std::sqrt(static_cast<double>(d_in()));
    if (!product_) {
      return {
          {"circulant_c", shape, zero_start() ? Initial::zeros() : Initial::normal(0.0, std), "circulant_c.{adapter}"}};
    }
    return {{"circulant_a", shape, Initial::normal(0.0, zero_start() ? 0.02 : std), "circulant_a.{adapter}"},
            {"circulant_b", shape, zero_start() ? Initial::zeros() : Initial::ones(), "circulant_b.{adapter}"}};
  }

 private:
  at::Tensor columns(const Params& params) const override {
    return product_ ? params["circulant_a"] * params["circulant_b"] : params["circulant_c"];
  }

  bool product_;
};

const RegisterMatrix registrar{
    {"circulant",
     "M[i, j] = c[(i - j) mod g] in blocks of g = gcd(d_out, d_in), c = a * b",
     "2 * d_out * d_in / g (single form: half)",
     "SURM, arXiv 2406.17740",
     {Option::choice("form", "product", "c = a * b as in the paper, or one trained vector c", {"product", "single"}),
      Option::integer("block_size", 0, "g; 0 means gcd(d_out, d_in)", 0),
      Option::flag("padding", false, "pad d_in and d_out up to multiples of block_size")},
     make_matrix<Circulant>}};

}  // namespace
}  // namespace veneer
