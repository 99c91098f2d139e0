// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/adapted_layer.h"

#include <torch/types.h>

#include <algorithm>
#include <limits>

#include "layers/call.h"
#include "veneer/check.h"

namespace veneer {
namespace {

std::string parameter_name(const ParameterSpec& spec, const std::string& adapter) { return spec.name + "__" + adapter; }

// An int64 [1] on x's device, never read by the host: manual_seed decides it, and checkpointing can repeat it.
torch::Tensor draw_seed(const torch::Tensor& x) {
  return at::randint(std::numeric_limits<int64_t>::max(), {1}, x.options().dtype(at::kLong).requires_grad(false));
}

const char* manner(Method::Composition composition) {
  switch (composition) {
    case Method::Composition::additive: return "sums";
    case Method::Composition::scaling: return "multiplies";
    case Method::Composition::exclusive: return "acts alone";
  }
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace

torch::Tensor duplicate(const torch::Tensor& tensor, const std::optional<torch::Device>& device) {
  if (!tensor.defined()) return {};
  const torch::NoGradGuard no_grad;
  const torch::Tensor detached = tensor.detach();
  return device && *device != detached.device() ? detached.to(*device) : detached.clone();
}

std::shared_ptr<SharedTensors> SharedTensors::copy_for(const void* layer, bool first,
                                                       const std::optional<torch::Device>& device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Copy& copy = copies_[std::this_thread::get_id()];
  auto tensors = copy.tensors.lock();
  if (first || tensors == nullptr || !copy.joined.insert(layer).second) {
    std::vector<torch::Tensor> copies;
    for (const auto& tensor : tensors_) {
      copies.push_back(duplicate(tensor, device).set_requires_grad(tensor.requires_grad()));
    }
    tensors = std::make_shared<SharedTensors>(std::move(copies));
    copy = {tensors, {layer}};
  }
  return tensors;
}

void check_composition(const std::vector<const LayerAdapter*>& parts, const std::string& path) {
  for (size_t i = 1; i < parts.size(); ++i) {
    const LayerAdapter& first = *parts.front();
    const LayerAdapter& other = *parts[i];
    const auto a = first.bound->method->composition();
    const auto b = other.bound->method->composition();
    VENEER_CHECK(a == b && a != Method::Composition::exclusive, "set_active", "adapters `", first.name(), "` (",
                 first.bound->name, ", ", manner(a), ") and `", other.name(), "` (", other.bound->name, ", ", manner(b),
                 ") cannot act together on ", path,
                 ": additive ones sum, diagonal scalings multiply, anything else acts alone");
  }
}

const LayerAdapter* AdaptedLayer::adapter(const std::string& name) const {
  const auto found =
      std::find_if(adapters_.begin(), adapters_.end(), [&](const LayerAdapter& part) { return part.name() == name; });
  return found == adapters_.end() ? nullptr : &*found;
}

std::vector<const LayerAdapter*> AdaptedLayer::acting() const {
  std::vector<const LayerAdapter*> parts;
  if (!enabled_) return parts;
  for (const auto& part : adapters_) {
    if (part.active) parts.push_back(&part);
  }
  return parts;
}

// Frozen tensors are registered as parameters without gradient, not as buffers: LibTorch cannot take a buffer away
// again.
void AdaptedLayer::register_part(LayerAdapter& part) {
  for (size_t i = 0; i < part.tensors.size(); ++i) {
    if (i >= part.bound->own && !part.registers_shared) break;
    const ParameterSpec& spec = part.bound->specs[i];
    const std::string name = parameter_name(spec, part.name());
    part.tensors[i] =
        register_parameter(name, part.tensors[i], spec.trainable && part.active && part.adapter->trainable);
    registered_.insert(name);
  }
}

void AdaptedLayer::add_adapter(LayerAdapter part) {
  TORCH_INTERNAL_ASSERT(adapter(part.name()) == nullptr && part.tensors.size() == part.bound->specs.size());
  register_part(part);
  adapters_.push_back(std::move(part));
}

void AdaptedLayer::delete_adapter(const std::string& name) {
  const LayerAdapter* part = adapter(name);
  if (part == nullptr) return;
  for (const auto& spec : part->bound->specs) {
    const std::string parameter = parameter_name(spec, name);
    if (registered_.erase(parameter) > 0) parameters_.erase(parameter);
  }
  adapters_.erase(adapters_.begin() + (part - adapters_.data()));
}

void AdaptedLayer::set_active(const std::set<std::string>& names) {
  for (auto& part : adapters_) {
    part.active = names.count(part.name()) > 0;
    for (size_t i = 0; i < part.tensors.size(); ++i) {
      part.tensors[i].set_requires_grad(part.bound->specs[i].trainable && part.active && part.adapter->trainable);
    }
  }
}

torch::Tensor AdaptedLayer::run(const LayerAdapter& part, const torch::Tensor& x, const torch::Tensor& y,
                                const torch::Tensor& weight, const torch::Tensor& bias) const {
  const bool drops = is_training() && part.bound->method->dropout() > 0.0;
  return call_forward(*part.bound, {x, y, weight, bias, drops ? draw_seed(x) : torch::Tensor()}, part.tensors);
}

void AdaptedLayer::copy_adapters(const AdaptedLayer& from, const std::optional<torch::Device>& device) {
  registered_.clear();
  needs_freeze_ = !adapters_.empty();
  for (auto& part : adapters_) {
    if (part.shared != nullptr) part.shared = part.shared->copy_for(&from, part.registers_shared, device);
    for (size_t i = 0; i < part.tensors.size(); ++i) {
      part.tensors[i] =
          i < part.bound->own ? duplicate(part.tensors[i], device) : part.shared->tensors()[i - part.bound->own];
    }
    register_part(part);
  }
}

std::string AdaptedLayer::adapters_text() const {
  if (adapters_.empty()) return "";
  std::string text;
  for (const auto& part : adapters_) {
    text += (text.empty() ? "" : ", ") + part.name() + ": " + part.bound->name + (part.active ? "" : " (inactive)");
  }
  return ", adapters=[" + text + "]";
}

}  // namespace veneer
