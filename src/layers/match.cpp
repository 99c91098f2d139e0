// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// target_modules, exclude_modules, layers_to_transform: HF PEFT's rules, but a name that matches nothing is an error.
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "layers/walk.h"
#include "veneer/check.h"
#include "veneer/hidden_site.h"
#include "veneer/linear.h"

namespace veneer {
namespace {

using nlohmann::json;
using torch::nn::Module;

struct Names {
  std::vector<std::string> paths;      // of all modules
  std::vector<std::string> adaptable;  // paths and last components of veneer's layers: what a user meant, most likely
};

Names names_of(const Module& module) {
  Names names;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    names.paths.push_back(item.key());
    if (dynamic_cast<const AdaptedLayer*>(item.value().get()) == nullptr) continue;
    for (const std::string& name : {item.key().substr(item.key().rfind('.') + 1), item.key()}) {
      const auto& known = names.adaptable;
      if (std::find(known.begin(), known.end(), name) == known.end()) names.adaptable.push_back(name);
    }
  }
  return names;
}

// Each name of a list, or the expression, must match some module.
void check_matches(const char* owner, const json& patterns, const Names& names) {
  if (patterns.is_null()) return;
  const json items = patterns.is_string() ? json::array({patterns}) : patterns;
  for (const auto& item : items) {
    const json one = patterns.is_string() ? item : json::array({item});
    const bool matched =
        std::any_of(names.paths.begin(), names.paths.end(), [&](const auto& path) { return path_matches(one, path); });
    const auto text = item.get<std::string>();
    VENEER_CHECK(matched, owner, "`", text, "` matches no module", suggestion(text, names.adaptable),
                 "; layers to adapt: ", join(names.adaptable));
  }
}

std::vector<std::string> texts(const json& value) {
  if (value.is_string()) return {value.get<std::string>()};
  return value.get<std::vector<std::string>>();
}

// HF PEFT's layers_to_transform: the index that follows the block list called `pattern` (any list, without one).
bool in_layers(const std::string& path, const json& config) {
  const json layers = config.value("layers_to_transform", json());
  if (layers.is_null()) return true;
  const json pattern = config.value("layers_pattern", json());
  for (const auto& name : pattern.is_null() || pattern.empty() ? std::vector<std::string>{"[^.]+"} : texts(pattern)) {
    std::smatch found;
    if (!std::regex_search(path, found, std::regex("^(?:.*?\\.)?(?:" + name + ")\\.(\\d{1,9})(?:\\.|$)"))) continue;
    const json index = std::stoll(found[1]);
    return layers.is_array() ? std::find(layers.begin(), layers.end(), index) != layers.end() : layers == index;
  }
  return false;
}

// Why a matched module cannot be adapted.
[[noreturn]] void refuse(const std::string& path, const Module& module) {
  VENEER_CHECK(!module.as<torch::nn::LinearImpl>(), "adapt", "`", path,
               "` is a torch::nn::Linear, whose forward cannot ",
               "be changed; expected it declared as veneer::Linear, which takes its place");
  VENEER_CHECK(false, "adapt", "`", path, "` is a ", module.name(),
               "; expected a veneer::Linear, or a veneer::HiddenSite for methods of hidden states");
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace

std::vector<FoundLayer> match(const Module& module, const json& config, bool strict) {
  const json targets = config.value("target_modules", json());
  const json exclude = config.value("exclude_modules", json());
  const Names names = names_of(module);
  VENEER_CHECK(!targets.is_null() && !(targets.is_structured() && targets.empty()) && targets != "", "adapt",
               "expected target_modules, got none; layers to adapt: ", join(names.adaptable));
  const bool all_linear = targets == "all-linear";
  const json by_wiring = targets.is_object() ? targets : json{{"", targets}};
  if (strict) {
    if (!all_linear) {
      for (const auto& [wiring, patterns] : by_wiring.items()) check_matches("target_modules", patterns, names);
    }
    check_matches("exclude_modules", exclude, names);
  }

  const json kept = config.value("modules_to_save", json::array());
  std::vector<FoundLayer> layers;
  std::set<const Module*> seen;
  for (const auto& item : module.named_modules("", /*include_self=*/false)) {
    const std::string& path = item.key();
    const Module& one = *item.value();
    for (const auto& [wiring, patterns] : by_wiring.items()) {
      if (all_linear ? dynamic_cast<const LinearImpl*>(&one) == nullptr || path_matches(kept, path)
                     : !path_matches(patterns, path)) {
        continue;
      }
      if (path_matches(exclude, path) || !in_layers(path, config) || !seen.insert(&one).second) continue;
      auto* layer = dynamic_cast<AdaptedLayer*>(item.value().get());
      if (layer == nullptr) refuse(path, one);
      if (!wiring.empty()) {
        const auto* site = dynamic_cast<const HiddenSiteImpl*>(&one);
        VENEER_CHECK(site != nullptr && site->options.wiring() == wiring, "adapt", "`", path, "` is expected to be a ",
                     "veneer::HiddenSite of wiring `", wiring, "`, got a ", site ? "site of wiring `" : one.name(),
                     site ? site->options.wiring() + "`" : std::string());
      }
      layers.push_back({path, layer});
    }
  }
  VENEER_CHECK(!layers.empty(), "adapt", "target_modules ", targets.dump(), " leaves no layer to adapt",
               exclude.is_null() ? "" : " after exclude_modules " + exclude.dump(),
               "; layers to adapt: ", join(names.adaptable));
  return layers;
}

}  // namespace veneer
