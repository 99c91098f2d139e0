// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/options/linear.h>
#include <torch/nn/pimpl.h>

#include "veneer/adapted_layer.h"

namespace veneer {

// torch::nn::Linear that can be adapted later: y = x W^T + b, W [out_features, in_features]. Parameters, their names
// and their start are torch's. Not derived from torch::nn::LinearImpl, whose forward is not virtual.
class LinearImpl : public AdaptedLayer {
 public:
  LinearImpl(int64_t in_features, int64_t out_features)
      : LinearImpl(torch::nn::LinearOptions(in_features, out_features)) {}
  explicit LinearImpl(const torch::nn::LinearOptions& options_);

  torch::Tensor forward(const torch::Tensor& x);  // [*, in_features] -> [*, out_features]
  void reset_parameters();                        // torch's start; adapters stay

  torch::nn::LinearOptions options;
  torch::Tensor weight;
  torch::Tensor bias;  // undefined without bias

  Site site() const override;
  torch::Tensor base_weight() const override;
  torch::Tensor base_bias() const override;
  std::string route() const override;
  void pretty_print(std::ostream& stream) const override;
  // Copies have their own tensors, adapters included.
  std::shared_ptr<torch::nn::Module> clone(const std::optional<torch::Device>& device = std::nullopt) const override;
  // torch::save and torch::load; refused while merged, as the base's own weight is not in place.
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;

  // Weight and bias with the acting adapters in them. Refused where one of them has none.
  struct Effective {
    torch::Tensor weight;
    torch::Tensor bias;
  };
  Effective effective() const;
  bool merged() const override { return kept_.has_value(); }
  void merge(const Effective& effective);  // keeps the base's own tensors
  void unmerge();                          // puts them back

 private:
  void clone_(torch::nn::Module& other, const std::optional<torch::Device>& device) override;
  torch::Tensor as_placed(const torch::Tensor& kept) const;

  std::optional<Effective> kept_;
};
TORCH_MODULE(Linear);

}  // namespace veneer
