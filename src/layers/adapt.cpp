// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/adapt.h"

#include <algorithm>
#include <iomanip>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <sstream>

#include "core/log.h"
#include "layers/attach.h"
#include "layers/walk.h"
#include "veneer/check.h"
#include "veneer/hidden_site.h"

namespace veneer {
namespace {

using nlohmann::json;
using torch::nn::Module;

json with_targets(json config, const Targets& targets) {
  if (!targets.names().empty()) config["target_modules"] = targets.names();
  if (!targets.pattern().empty()) config["target_modules"] = targets.pattern();
  return config;
}

// The configuration as files have it: "all-linear" as the paths it stands for; hidden sites by wiring, with their size
// where there is a field for it (Python cannot tell it from the nn.Identity that stands there).
json written_targets(json config, const std::vector<FoundLayer>& layers) {
  json& targets = config["target_modules"];
  std::map<std::string, std::vector<std::string>> by_wiring;
  std::vector<std::string> paths;
  for (const auto& found : layers) {
    paths.push_back(found.path);
    if (const auto* site = dynamic_cast<const HiddenSiteImpl*>(found.layer)) {
      by_wiring[site->options.wiring()].push_back(found.path);
    }
  }
  if (!by_wiring.empty()) {
    targets = by_wiring;
    const int64_t d = layers.front().layer->site().d_in;
    const bool one_size = std::all_of(layers.begin(), layers.end(),
                                      [&](const FoundLayer& found) { return found.layer->site().d_in == d; });
    if (one_size && config.contains("hidden_size")) config["hidden_size"] = d;
  } else if (targets == "all-linear") {
    targets = paths;
  }
  return config;
}

}  // namespace

Report adapt(Module& module, const AdapterConfig& config, const Targets& targets, const std::string& adapter) {
  settle(module);
  const json wanted = with_targets(config.json(), targets);
  auto layers = match(module, wanted, /*strict=*/true);
  auto kept = kept_names(module, wanted, layers, /*strict=*/true);
  Adapter made{adapter, AdapterConfig::from_json(written_targets(wanted, layers)), std::move(kept)};
  return attach(module, prepare(module, std::move(made), std::move(layers), /*start=*/true));
}

std::vector<torch::Tensor> trainable_parameters(const Module& module) {
  settle(module);
  std::vector<torch::Tensor> parameters = module.parameters();
  std::erase_if(parameters, [](const torch::Tensor& parameter) { return !parameter.requires_grad(); });
  return parameters;
}

std::vector<std::string> adapter_names(const Module& module) {
  std::vector<std::string> names;
  for (const auto& found : layers_of(module)) {
    for (const auto& part : found.layer->adapters()) {
      if (std::find(names.begin(), names.end(), part.name()) == names.end()) names.push_back(part.name());
    }
  }
  return names;
}

std::vector<std::string> active_adapters(const Module& module) {
  std::vector<std::string> names;
  for (const auto& found : layers_of(module)) {
    for (const auto& part : found.layer->adapters()) {
      if (part.active && std::find(names.begin(), names.end(), part.name()) == names.end())
        names.push_back(part.name());
    }
  }
  return names;
}

void set_active(Module& module, const std::vector<std::string>& adapters) {
  settle(module);
  check_unmerged(module, "other adapters are made active");
  for (const auto& adapter : adapters) layers_with(module, adapter);  // each must exist
  const std::set<std::string> names(adapters.begin(), adapters.end());
  const auto layers = layers_of(module);
  for (const auto& found : layers) {
    std::vector<const LayerAdapter*> together;
    for (const auto& part : found.layer->adapters()) {
      if (names.count(part.name()) > 0) together.push_back(&part);
    }
    check_composition(together, found.path);
  }
  std::map<std::string, bool> in_place;  // trained in place by an adapter: by an active one?
  for (const auto& found : layers) {
    found.layer->set_active(names);
    for (const auto& part : found.layer->adapters()) {
      for (const auto& name : part.adapter->kept) in_place[name] |= part.active && part.adapter->trainable;
    }
    log_debug(found.path, ": ", found.layer->route());
  }
  for (const auto& [name, tensor] : base_tensors(module)) {
    const auto known = in_place.find(name);
    if (known != in_place.end() && tensor.is_floating_point()) tensor.set_requires_grad(known->second);
  }
}

void disable(Module& module) {
  for (const auto& found : layers_of(module)) found.layer->enable(false);
}

void enable(Module& module) {
  for (const auto& found : layers_of(module)) found.layer->enable(true);
}

void delete_adapter(Module& module, const std::string& adapter) {
  settle(module);
  check_unmerged(module, "an adapter is deleted");
  const auto layers = layers_with(module, adapter);
  const auto kept = layers.front().layer->adapter(adapter)->adapter->kept;
  for (const auto& found : layers) found.layer->delete_adapter(adapter);
  for (const auto& [name, tensor] : base_tensors(module)) {
    const bool trained = std::find(kept.begin(), kept.end(), name) != kept.end();
    if (trained && tensor.is_floating_point()) tensor.set_requires_grad(false);
  }
}

std::ostream& operator<<(std::ostream& stream, const Report& report) {
  std::ostringstream text;
  text << "adapter `" << report.adapter << "` on " << report.layers.size()
       << (report.layers.size() == 1 ? " layer" : " layers") << (report.active ? "" : " (inactive: see set_active)")
       << "\n";
  size_t width = 0;
  for (const auto& layer : report.layers) width = std::max(width, layer.path.size());
  for (const auto& layer : report.layers) {
    text << "  " << std::left << std::setw(static_cast<int>(width)) << layer.path << "  " << layer.method << "  "
         << layer.parameters << "\n";
  }
  if (!report.kept.empty()) text << "  trained in place: " << join(report.kept) << "\n";
  const double share =
      report.total > 0 ? 100.0 * static_cast<double>(report.trainable) / static_cast<double>(report.total) : 0;
  text << "trainable parameters: " << report.trainable << " of " << report.total << " (" << std::fixed
       << std::setprecision(4) << share << " %)";
  return stream << text.str();
}

}  // namespace veneer
