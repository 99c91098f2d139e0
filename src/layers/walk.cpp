// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "layers/walk.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "veneer/check.h"
#include "veneer/linear.h"

namespace veneer {
namespace {

using torch::nn::Module;

bool has_adapter_tensor(const Module* owner, const std::string& name) {
  const auto* layer = dynamic_cast<const AdaptedLayer*>(owner);
  return layer != nullptr && layer->owns_parameter(name);
}

std::string joined(const std::string& path, const std::string& name) { return path.empty() ? name : path + "." + name; }

// Every module with its path, the model itself first under "".
std::vector<std::pair<std::string, const Module*>> modules_of(const Module& module) {
  std::vector<std::pair<std::string, const Module*>> all{{"", &module}};
  for (const auto& item : module.named_modules("", /*include_self=*/false))
    all.emplace_back(item.key(), item.value().get());
  return all;
}

// Last components and whole paths: what a user may have meant.
std::vector<std::string> module_names(const Module& module) {
  std::vector<std::string> names;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    for (const std::string& name : {item.key().substr(item.key().rfind('.') + 1), item.key()}) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
  }
  return names;
}

}  // namespace

std::vector<FoundLayer> layers_of(const Module& module) {
  std::vector<FoundLayer> layers;
  std::unordered_set<const Module*> seen;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    auto* layer = dynamic_cast<AdaptedLayer*>(item.value().get());
    if (layer != nullptr && seen.insert(layer).second) layers.push_back({item.key(), layer});
  }
  return layers;
}

std::vector<FoundLayer> layers_with(const Module& module, const std::string& adapter) {
  std::vector<FoundLayer> layers = layers_of(module);
  std::vector<std::string> known;
  for (const auto& found : layers) {
    for (const auto& part : found.layer->adapters()) {
      if (std::find(known.begin(), known.end(), part.name()) == known.end()) known.push_back(part.name());
    }
  }
  std::erase_if(layers, [&](const FoundLayer& found) { return found.layer->adapter(adapter) == nullptr; });
  VENEER_CHECK(!layers.empty(), "adapter", "no adapter is called `", adapter, "`; known: ", join(known),
               suggestion(adapter, known));
  return layers;
}

Site site_of(const FoundLayer& found) {
  Site site = found.layer->site();
  site.path = found.path;
  site.role = found.path.substr(found.path.rfind('.') + 1);
  // The transformer block's index: the first component that is a number.
  for (size_t begin = 0; begin < found.path.size();) {
    const size_t end = std::min(found.path.find('.', begin), found.path.size());
    const std::string part = found.path.substr(begin, end - begin);
    if (!part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      site.layer = std::stoll(part);
      break;
    }
    begin = end + 1;
  }
  return site;
}

std::vector<std::pair<std::string, torch::Tensor>> base_tensors(const Module& module) {
  std::vector<std::pair<std::string, torch::Tensor>> all;
  std::unordered_set<const void*> seen;
  for (const auto& [path, one] : modules_of(module)) {
    const auto add = [&, path = path, one = one](const auto& items) {
      for (const auto& item : items) {
        if (!item.value().defined() || has_adapter_tensor(one, item.key())) continue;
        if (seen.insert(item.value().unsafeGetTensorImpl()).second)
          all.emplace_back(joined(path, item.key()), item.value());
      }
    };
    add(one->named_parameters(/*recurse=*/false));
    add(one->named_buffers(/*recurse=*/false));
  }
  return all;
}

std::vector<std::string> kept_names(const Module& module, const nlohmann::json& config,
                                    const std::vector<FoundLayer>& layers, bool strict) {
  const auto tensors = base_tensors(module);
  std::unordered_set<std::string> kept;
  for (const auto& item : config.value("modules_to_save", nlohmann::json::array())) {
    const auto name = item.get<std::string>();
    bool matched = false;
    for (const auto& [path, one] : modules_of(module)) {
      if (path.empty() || !path_matches(nlohmann::json::array({name}), path)) continue;
      matched = true;
      for (const auto& found : layers) {
        const bool inside = found.path == path || found.path.starts_with(path + ".");
        VENEER_CHECK(!inside, "modules_to_save", "`", found.path,
                     "` would be both adapted and trained whole; expected ",
                     "it in target_modules or in modules_to_save, not in both");
      }
      for (const auto& [tensor, value] : tensors) {
        if (tensor.starts_with(path + ".")) kept.insert(tensor);
      }
    }
    VENEER_CHECK(matched || !strict, "modules_to_save", "`", name, "` matches no module",
                 suggestion(name, module_names(module)));
  }

  const auto bias = config.value("bias", std::string("none"));  // "none", "all" or "<method>_only"
  if (bias == "all") {
    for (const auto& [name, value] : tensors) {
      if (name == "bias" || name.ends_with(".bias")) kept.insert(name);
    }
  } else if (bias != "none") {
    for (const auto& found : layers) {
      if (found.layer->base_bias().defined()) kept.insert(found.path + ".bias");
    }
  }
  std::vector<std::string> ordered;  // as the model has them
  for (const auto& [name, value] : tensors) {
    if (kept.count(name) > 0) ordered.push_back(name);
  }
  return ordered;
}

}  // namespace veneer
