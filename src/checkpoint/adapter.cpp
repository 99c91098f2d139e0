// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// An adapter's two files, HF PEFT's. Keys: base_model.model.<module path>.<spec key>, base_model.<spec key> for shared
// tensors, base_model.model.<name> for modules trained in place; the adapter's name is in none of them.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/fill.h"
#include "checkpoint/safetensors_write.h"
#include "core/log.h"
#include "layers/attach.h"
#include "layers/walk.h"
#include "veneer/check.h"
#include "veneer/checkpoint.h"

namespace veneer {
namespace {

using nlohmann::json;
using torch::nn::Module;

const std::string config_name = "adapter_config.json";
const std::string tensors_name = "adapter_model.safetensors";

std::string in_folder(const std::string& folder, const std::string& name) {
  return folder.empty() || folder.ends_with('/') ? folder + name : folder + "/" + name;
}

const std::string model_prefix = "base_model.model.";
const std::string shared_prefix = "base_model.";

// "lora_A.{adapter}.weight" -> "lora_A.weight"
std::string file_key(std::string key) {
  static const std::string part = ".{adapter}";
  const size_t at = key.find(part);
  return at == std::string::npos ? key : key.erase(at, part.size());
}

// HF PEFT puts an adapted layer's own parameters under base_layer.
std::string kept_key(const std::string& name, const std::vector<FoundLayer>& layers) {
  for (const auto& found : layers) {
    if (name == found.path + ".bias") return model_prefix + found.path + ".base_layer.bias";
  }
  return model_prefix + name;
}

// Every tensor of one adapter by its key in the file; with `kept`, the model's own tensors that belong to it.
Wanted tensors_by_key(const Module& module, const std::vector<FoundLayer>& layers,
                      const std::vector<LayerAdapter>& parts) {
  Wanted tensors;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& specs = parts[i].bound->specs;
    for (size_t j = 0; j < specs.size(); ++j) {
      const bool shared = j >= parts[i].bound->own;
      if (!specs[j].saved || (shared && !parts[i].registers_shared)) continue;
      const std::string prefix = shared ? shared_prefix : model_prefix + layers[i].path + ".";
      tensors.emplace(prefix + file_key(specs[j].key), parts[i].tensors[j].detach());
    }
  }
  const auto& kept = parts.front().adapter->kept;
  for (const auto& [name, tensor] : base_tensors(module)) {
    if (std::find(kept.begin(), kept.end(), name) != kept.end())
      tensors.emplace(kept_key(name, layers), tensor.detach());
  }
  return tensors;
}

json read_config(const std::string& path) {
  std::ifstream file(path);
  VENEER_CHECK(file.good(), "load_adapter", "cannot open ", path);
  json config = json::parse(file, nullptr, /*allow_exceptions=*/false);
  VENEER_CHECK(config.is_object(), "load_adapter", path, " is not a JSON object");
  return config;
}

// The layers that the file's keys name, for a configuration without target_modules.
std::vector<FoundLayer> named_by_keys(const Module& module, const SafetensorsFile& file) {
  std::vector<FoundLayer> layers = layers_of(module);
  std::erase_if(layers, [&](const FoundLayer& found) {
    const std::string prefix = model_prefix + found.path + ".";
    const auto first = file.entries().lower_bound(prefix);
    return first == file.entries().end() || first->first.rfind(prefix, 0) != 0;
  });
  return layers;
}

// A trained bias of an adapted layer may also stand under the model's own name.
Wanted with_plain_keys(Wanted wanted, const SafetensorsFile& file) {
  static const std::string part = ".base_layer";
  Wanted result;
  for (auto& [key, tensor] : wanted) {
    std::string plain = key;
    const size_t at = key.find(part);
    if (at != std::string::npos) plain.erase(at, part.size());
    result.emplace(file.entries().count(key) == 0 && file.entries().count(plain) > 0 ? plain : key, tensor);
  }
  return result;
}

}  // namespace

void save_adapter(const Module& module, const std::string& directory, const std::string& adapter) {
  const auto layers = layers_with(module, adapter);
  std::vector<LayerAdapter> parts;
  for (const auto& found : layers) parts.push_back(*found.layer->adapter(adapter));
  json config = parts.front().adapter->config.json();
  config["inference_mode"] = true;  // as HF PEFT writes it
  const auto tensors = tensors_by_key(module, layers, parts);

  make_folders(directory);
  NewFile tensors_file(in_folder(directory, tensors_name));
  write_safetensors(tensors_file, tensors, {{"format", "pt"}});
  NewFile config_file(in_folder(directory, config_name));
  const std::string text = config.dump(2) + "\n";
  config_file.write(text.data(), text.size());
  // Both are whole on disk before the first takes its place.
  tensors_file.flush();
  config_file.flush();
  tensors_file.commit();
  config_file.commit();
  log_debug("saved adapter `", adapter, "`: ", tensors.size(), " tensors in ", directory);
}

Report load_adapter(Module& module, const std::string& directory, const std::string& adapter, bool trainable) {
  const auto config = AdapterConfig::from_file(read_config(in_folder(directory, config_name)));
  const std::string path = in_folder(directory, tensors_name);
  const SafetensorsFile file(path);

  json wanted = config.json();
  const bool named = wanted.contains("target_modules");
  auto layers = named ? match(module, wanted, /*strict=*/false) : named_by_keys(module, file);
  VENEER_CHECK(!layers.empty(), "load_adapter", path, " names no layer of this model");
  auto kept = kept_names(module, wanted, layers, /*strict=*/false);
  // A head that the file holds no tensor of was not trained with it (HF PEFT lists heads by their usual names).
  std::erase_if(kept, [&](const std::string& name) {
    return file.entries().count(kept_key(name, layers)) == 0 && file.entries().count(model_prefix + name) == 0 &&
           wanted.value("bias", std::string("none")) == "none";
  });

  settle(module);
  Prepared prepared =
      prepare(module, {adapter, config, std::move(kept), trainable}, std::move(layers), /*start=*/false);
  fill("load_adapter", file, path, with_plain_keys(tensors_by_key(module, prepared.layers, prepared.parts), file));
  log_debug("loaded adapter `", adapter, "` from ", directory);
  return attach(module, std::move(prepared));
}

}  // namespace veneer
