// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "core/log.h"
#include "layers/attach.h"
#include "layers/walk.h"
#include "veneer/adapt.h"
#include "veneer/check.h"
#include "veneer/linear.h"

namespace veneer {
namespace {

using torch::nn::Module;

struct Merge {
  LinearImpl* layer;
  LinearImpl::Effective effective;
};

// All effective weights, before any layer is changed.
std::vector<Merge> effective_weights(const Module& module) {
  check_unmerged(module, "merging again");
  std::vector<Merge> merges;
  std::map<const void*, std::vector<std::string>> owners;  // of each weight's memory
  for (const auto& item : module.named_parameters()) {
    if (item.value().numel() > 0) owners[item.value().const_data_ptr()].push_back(item.key());
  }
  for (const auto& found : layers_of(module)) {
    const auto parts = found.layer->acting();
    if (parts.empty()) continue;
    auto* linear = dynamic_cast<LinearImpl*>(found.layer);
    if (linear == nullptr) {
      const LayerAdapter& part = *parts.front();
      VENEER_CHECK(false, part.bound->name, "adapter `", part.name(), "` at `", found.path,
                   "` cannot be merged: ", part.bound->method->merge_refusal());
    }
    const auto& names = owners[linear->weight.const_data_ptr()];
    VENEER_CHECK(names.size() <= 1, "merge", "the weight of `", found.path, "` is tied: ", join(names),
                 " are one tensor, and merging would change them all");
    merges.push_back({linear, linear->effective()});
    VENEER_CHECK(at::isfinite(merges.back().effective.weight).all().item<bool>(), "merge", "the merged weight of `",
                 found.path, "` is not finite; the model is unchanged");
  }
  VENEER_CHECK(!merges.empty(), "merge",
               "expected an active, enabled adapter, got none; known: ", join(adapter_names(module)));
  return merges;
}

}  // namespace

void merge(Module& module) {
  settle(module);
  for (auto& [layer, effective] : effective_weights(module)) {
    layer->merge(effective);
  }
  log_debug("merged: ", join(active_adapters(module)));
}

void unmerge(Module& module) {
  bool any = false;
  for (const auto& found : layers_of(module)) {
    auto* linear = dynamic_cast<LinearImpl*>(found.layer);
    if (linear == nullptr || !linear->merged()) continue;
    linear->unmerge();
    any = true;
  }
  VENEER_CHECK(any, "unmerge", "expected a merged model, got one without merged layers");
}

void unload(Module& module) {
  check_unmerged(module, "adapters are removed");
  for (const auto& name : adapter_names(module)) delete_adapter(module, name);
}

void merge_and_unload(Module& module) {
  const auto merges = effective_weights(module);
  unload(module);
  for (const auto& [layer, effective] : merges) {
    layer->weight.set_data(effective.weight);
    if (layer->bias.defined()) layer->bias.set_data(effective.bias);
  }
}

}  // namespace veneer
