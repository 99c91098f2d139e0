// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A full matrix: M = weight. What a bottleneck adapter's projections are unless asked otherwise, and the reference
// every other family is compared with.
#include <ATen/ATen.h>

#include <cmath>

#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

class Dense final : public Matrix {
 public:
  Dense(const Options& /*options*/, const MatrixSite& site) : Matrix(site) {}

  ParameterSpecs parameters() const override {
    const auto initial = zero_start() ? Initial::zeros() : Initial::kaiming_uniform(std::sqrt(5.0));
    return {{"weight", {d_out(), d_in()}, initial, "dense_weight.{adapter}"}};
  }

  at::Tensor dense(const Params& params) const override { return params["weight"]; }
};

const RegisterMatrix registrar{
    {"dense", "M = W, any matrix", "d_out * d_in", "the linear layer of torch.nn", {}, make_matrix<Dense>}};

}  // namespace
}  // namespace veneer
