// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/arg.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/pimpl.h>

#include "veneer/adapted_layer.h"

namespace veneer {

struct HiddenSiteOptions {
  HiddenSiteOptions(int64_t d) : d_(d) {}  // NOLINT(google-explicit-constructor): as torch's options
  TORCH_ARG(int64_t, d);                   // size of the hidden state's last dimension
  // Which of Python's wirings this place is, so that an adapter file made for another one is refused: "output"
  // (u + a(u)), "norm" (around a LayerNorm), "input" (beside a block that reads x and adds it) or "parallel" (beside a
  // block: site(x, block(x))).
  TORCH_ARG(std::string, wiring) = "output";
};

// A place in a model where an adapter of a hidden state can act. Has no parameters and is the identity until adapted.
//   u = site(u);     // u + a(u)
//   y = site(z, y);  // y + a(z): parallel adapters, or a residual of the caller's choice
class HiddenSiteImpl : public AdaptedLayer {
 public:
  explicit HiddenSiteImpl(const HiddenSiteOptions& options_);

  torch::Tensor forward(const torch::Tensor& z, const torch::Tensor& y = {});  // [*, d] -> [*, d]

  HiddenSiteOptions options;

  Site site() const override;
  std::string route() const override;
  void pretty_print(std::ostream& stream) const override;
  std::shared_ptr<torch::nn::Module> clone(const std::optional<torch::Device>& device = std::nullopt) const override;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())})

 private:
  void clone_(torch::nn::Module& other, const std::optional<torch::Device>& device) override;
};
TORCH_MODULE(HiddenSite);

}  // namespace veneer
