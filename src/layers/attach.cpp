// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "layers/attach.h"

#include <algorithm>
#include <unordered_set>

#include "core/log.h"
#include "veneer/check.h"
#include "veneer/hidden_site.h"
#include "veneer/linear.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using torch::nn::Module;

// Type and device of an adapter's tensors: the base weight's, but float32 for 16-bit ones (HF PEFT's rule: an update
// smaller than the weight's last bit must still be learnt). A hidden site has no weight and goes by the whole model.
at::TensorOptions tensor_options(const Module& module, const AdaptedLayer& layer) {
  torch::Tensor like = layer.base_weight();
  if (!like.defined()) {
    for (const auto& [name, tensor] : base_tensors(module)) {
      if (tensor.is_floating_point()) {
        like = tensor;
        break;
      }
    }
  }
  if (!like.defined()) return at::dtype(at::kFloat);
  return at::device(like.device()).dtype(wide_type(like.scalar_type()));
}

// A part's own tensors without a start.
std::vector<torch::Tensor> blank(const BoundMethod& bound, at::TensorOptions options) {
  std::vector<torch::Tensor> tensors;
  for (size_t i = 0; i < bound.own; ++i) tensors.push_back(torch::zeros(bound.specs[i].shape, options));
  return tensors;
}

// Names of the model's own tensors that some acting adapter trains in place.
std::unordered_set<std::string> trained_in_place(const std::vector<FoundLayer>& layers) {
  std::unordered_set<std::string> names;
  for (const auto& found : layers) {
    for (const auto& part : found.layer->adapters()) {
      if (part.active && part.adapter->trainable) names.insert(part.adapter->kept.begin(), part.adapter->kept.end());
    }
  }
  return names;
}

void freeze_base(const Module& module) {
  const auto layers = layers_of(module);
  const auto trained = trained_in_place(layers);
  for (const auto& [name, tensor] : base_tensors(module)) {
    if (tensor.is_leaf() && tensor.is_floating_point()) tensor.set_requires_grad(trained.count(name) > 0);
  }
  for (const auto& found : layers) found.layer->frozen();
}

int64_t trainable_numbers(const LayerAdapter& part, bool shared_too) {
  int64_t numbers = 0;
  for (size_t i = 0; i < part.tensors.size(); ++i) {
    if (part.bound->specs[i].trainable && (i < part.bound->own || shared_too)) numbers += part.tensors[i].numel();
  }
  return numbers;
}

Report report_of(Module& module, const Prepared& prepared, bool active) {
  Report report;
  report.adapter = prepared.adapter->name;
  report.kept = prepared.adapter->kept;
  report.active = active;
  for (size_t i = 0; i < prepared.parts.size(); ++i) {
    const LayerAdapter& part = prepared.parts[i];
    const int64_t numbers = trainable_numbers(part, part.registers_shared);
    report.layers.push_back({prepared.layers[i].path, part.bound->name, numbers});
    report.adapter_parameters += numbers;
  }
  for (const auto& parameter : module.parameters()) {
    report.total += parameter.numel();
    if (parameter.requires_grad()) report.trainable += parameter.numel();
  }
  return report;
}

}  // namespace

Prepared prepare(const Module& module, Adapter adapter, std::vector<FoundLayer> layers, bool start) {
  check_unmerged(module, "an adapter is added");
  const std::string& name = adapter.name;
  VENEER_CHECK(!name.empty() && name.find('.') == std::string::npos && name.find('/') == std::string::npos, "adapter",
               "a name must not be empty nor hold a dot or a slash, got `", name, "`");
  const auto known = adapter_names(module);
  VENEER_CHECK(std::find(known.begin(), known.end(), name) == known.end(), "adapter", "`", name,
               "` exists already; expected another name, or delete_adapter first; known: ", join(known));
  const bool hidden = std::any_of(layers.begin(), layers.end(),
                                  [](const FoundLayer& found) { return found.layer->site().kind == SiteKind::hidden; });
  const bool linear = std::any_of(layers.begin(), layers.end(),
                                  [](const FoundLayer& found) { return found.layer->site().kind == SiteKind::linear; });
  VENEER_CHECK(!hidden || !linear, "adapt", "one adapter attaches to veneer::Linear layers or to veneer::HiddenSite ",
               "places, got both; make two adapters");

  // A module trained in place has one copy, which two adapters cannot both own.
  for (const auto& found : layers_of(module)) {
    for (const auto& part : found.layer->adapters()) {
      for (const auto& mine : adapter.kept) {
        const auto& theirs = part.adapter->kept;
        VENEER_CHECK(std::find(theirs.begin(), theirs.end(), mine) == theirs.end(), "adapter", "`", mine,
                     "` is trained in place by adapter `", part.name(), "` already, and has only one copy; expected ",
                     "another modules_to_save or bias, or delete_adapter first");
      }
    }
  }

  std::vector<Site> sites;
  for (const auto& found : layers) sites.push_back(site_of(found));
  const auto bound = adapter.config.bind(sites);
  const auto common = std::make_shared<const Adapter>(std::move(adapter));

  const BoundMethod& first = *bound.front();
  const ParameterSpecs shared_specs(first.specs.begin() + static_cast<int64_t>(first.own), first.specs.end());
  std::shared_ptr<SharedTensors> shared;
  if (!shared_specs.empty()) {
    shared =
        std::make_shared<SharedTensors>(initial_tensors(shared_specs, tensor_options(module, *layers.front().layer)));
  }

  Prepared prepared{common, std::move(layers), {}};
  for (size_t i = 0; i < bound.size(); ++i) {
    const AdaptedLayer& layer = *prepared.layers[i].layer;
    const auto options = tensor_options(module, layer);
    LayerAdapter part;
    part.adapter = common;
    part.bound = bound[i];
    part.shared = shared;
    part.registers_shared = shared != nullptr && i == 0;
    const auto borrowed = shared ? shared->tensors() : std::vector<torch::Tensor>();
    part.tensors =
        start ? initial_parameters(*bound[i], layer.base_weight(), options, borrowed) : blank(*bound[i], options);
    part.tensors.insert(part.tensors.end(), borrowed.begin(), borrowed.end());
    prepared.parts.push_back(std::move(part));
  }
  return prepared;
}

Report attach(Module& module, Prepared prepared) {
  const bool active = active_adapters(module).empty();
  for (size_t i = 0; i < prepared.parts.size(); ++i) {
    prepared.parts[i].active = active;
    prepared.layers[i].layer->add_adapter(prepared.parts[i]);
  }
  freeze_base(module);
  for (const auto& found : prepared.layers) {
    log_debug(found.path, ": adapter `", prepared.adapter->name, "`; ", found.layer->route());
  }
  return report_of(module, prepared, active);
}

void settle(const Module& module) {
  const auto layers = layers_of(module);
  if (std::any_of(layers.begin(), layers.end(), [](const FoundLayer& found) { return found.layer->needs_freeze(); })) {
    freeze_base(module);
  }
}

void check_unmerged(const Module& module, const char* doing) {
  for (const auto& found : layers_of(module)) {
    VENEER_CHECK(!found.layer->merged(), "merge", "`", found.path, "` is merged; expected unmerge() before ", doing);
  }
}

}  // namespace veneer
