// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/linear.h"

#include <torch/nn/init.h>
#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <ostream>

#include "layers/call.h"
#include "veneer/check.h"
#include "veneer/numeric.h"

namespace veneer {

using torch::Tensor;

LinearImpl::LinearImpl(const torch::nn::LinearOptions& options_) : options(options_) {
  weight = register_parameter("weight", torch::empty({options.out_features(), options.in_features()}));
  bias = register_parameter("bias", options.bias() ? torch::empty(options.out_features()) : Tensor(),
                            /*requires_grad=*/options.bias());
  reset_parameters();
}

void LinearImpl::reset_parameters() {
  // torch::nn::LinearImpl's draws in its order, so that one seed gives both the same start.
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5));
  if (!bias.defined()) return;
  const double bound = 1 / std::sqrt(static_cast<double>(options.in_features()));
  torch::nn::init::uniform_(bias, -bound, bound);
}

Tensor LinearImpl::forward(const Tensor& x) {
  if (merged()) {
    if (!enabled()) return at::linear(x, base_weight(), base_bias());
    VENEER_CHECK(!is_training() || !torch::GradMode::is_enabled(), "Linear",
                 "merged adapters do not train: expected unmerge(), or eval() or NoGradGuard for inference");
    return at::linear(x, weight, bias);
  }
  const auto parts = acting();
  if (parts.empty()) return at::linear(x, weight, bias);
  const bool scales_input = std::any_of(parts.begin(), parts.end(),
                                        [](const LayerAdapter* part) { return part->bound->method->changes_input(); });
  Tensor y;
  if (parts.size() > 1 && scales_input) {
    // Several scalings: all that act on the input act before the one product.
    Tensor input = x;
    for (const auto* part : parts) {
      if (part->bound->method->changes_input()) input = call_input(*part->bound, input, part->tensors);
    }
    y = at::linear(input, weight, bias);
  }
  // The first runs the base's product itself; each further one gets the output so far.
  for (const auto* part : parts) y = run(*part, x, y, weight, bias);
  return y;
}

Site LinearImpl::site() const {
  Site site;
  site.kind = SiteKind::linear;
  site.d_in = options.in_features();
  site.d_out = options.out_features();
  site.has_weight = true;
  site.has_bias = bias.defined();
  return site;
}

// The kept tensors, where the model has been moved or cast since.
Tensor LinearImpl::as_placed(const Tensor& kept) const { return kept.defined() ? kept.to(weight.options()) : kept; }

Tensor LinearImpl::base_weight() const { return merged() ? as_placed(kept_->weight) : weight; }
Tensor LinearImpl::base_bias() const { return merged() ? as_placed(kept_->bias) : bias; }

LinearImpl::Effective LinearImpl::effective() const {
  const torch::NoGradGuard no_grad;
  const Tensor w = base_weight().detach(), b = base_bias().defined() ? base_bias().detach() : Tensor();
  Effective result{wide(w), b.defined() ? wide(b) : b};  // several adapters round a 16-bit weight once
  for (const auto* part : acting()) {
    const Method& method = *part->bound->method;
    VENEER_CHECK(method.mergeable(), part->bound->name, "adapter `", part->name(),
                 "` cannot be merged: ", method.merge_refusal());
    result.weight = method.weight(result.weight, part->params());
    if (b.defined()) result.bias = method.bias(result.bias, part->params());
  }
  return {veneer::as(result.weight, w), b.defined() ? veneer::as(result.bias, b) : b};
}

// set_data swaps the tensor behind the parameter: the optimizer's and the user's handles stay valid, and the base's own
// bytes are kept without a copy.
void LinearImpl::merge(const Effective& effective) {
  TORCH_INTERNAL_ASSERT(!merged());
  kept_ = Effective{weight.detach(), bias.defined() ? bias.detach() : Tensor()};
  weight.set_data(effective.weight);
  if (bias.defined()) bias.set_data(effective.bias);
}

void LinearImpl::unmerge() {
  TORCH_INTERNAL_ASSERT(merged());
  weight.set_data(base_weight());
  if (bias.defined()) bias.set_data(base_bias());
  kept_.reset();
}

std::string LinearImpl::route() const {
  if (adapters().empty()) return "base: no adapter";
  if (!enabled()) return "base: adapters are disabled";
  if (merged()) return "base with the merged weight";
  const auto parts = acting();
  if (parts.empty()) return "base: no active adapter";
  if (parts.size() == 1) return "one op, which runs the base's product itself";
  const bool scaling = parts.front()->bound->method->composition() == Method::Composition::scaling;
  return c10::str(parts.size(),
                  scaling ? " scalings around one base product" : " updates summed onto one base product");
}

void LinearImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << "veneer::Linear(in_features=" << options.in_features()
         << ", out_features=" << options.out_features() << ", bias=" << options.bias() << adapters_text()
         << (merged() ? ", merged" : "") << ")";
}

std::shared_ptr<torch::nn::Module> LinearImpl::clone(const std::optional<torch::Device>& device) const {
  auto copy = std::make_shared<LinearImpl>(*this);
  copy->parameters_.clear();
  const auto own = [&](const char* name, const Tensor& tensor) {
    return copy->register_parameter(name, duplicate(tensor, device), tensor.defined() && tensor.requires_grad());
  };
  copy->weight = own("weight", weight);
  copy->bias = own("bias", bias);
  if (merged()) copy->kept_ = Effective{duplicate(kept_->weight, device), duplicate(kept_->bias, device)};
  copy->copy_adapters(*this, device);
  return copy;
}

// Called by the clone() of the module that holds this one: takes over a copy of `other`.
void LinearImpl::clone_(torch::nn::Module& other, const std::optional<torch::Device>& device) {
  const auto copy = std::dynamic_pointer_cast<LinearImpl>(other.clone(device));
  VENEER_CHECK(copy != nullptr, "Linear", "expected a veneer::Linear to clone from, got a ", other.name());
  *this = *copy;
}

void LinearImpl::save(torch::serialize::OutputArchive& archive) const {
  VENEER_CHECK(!merged(), "Linear", "expected unmerged weights to save: call unmerge(), or merge_and_unload() to keep ",
               "the merged ones");
  Module::save(archive);
}

void LinearImpl::load(torch::serialize::InputArchive& archive) {
  VENEER_CHECK(!merged(), "Linear", "expected an unmerged model to load into: call unmerge() first");
  Module::load(archive);
}

}  // namespace veneer
