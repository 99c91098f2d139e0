// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Finding things in a model: its adapted layers, the layers a configuration names, the parameters an adapter keeps.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "veneer/adapted_layer.h"

namespace veneer {

struct FoundLayer {
  std::string path;
  AdaptedLayer* layer;
};

// Every veneer::Linear and veneer::HiddenSite of a model, each once, in the order of its modules.
std::vector<FoundLayer> layers_of(const torch::nn::Module& module);
// Those that have the adapter; at least one, else an error that lists the model's adapters.
std::vector<FoundLayer> layers_with(const torch::nn::Module& module, const std::string& adapter);
Site site_of(const FoundLayer& found);

// A model's own tensors by name: parameters and buffers without those of adapters. A tensor under two names is listed
// once.
std::vector<std::pair<std::string, torch::Tensor>> base_tensors(const torch::nn::Module& module);

// The layers a configuration (its JSON) names. `strict`: each name must match a module; a file's list may hold names
// for other models.
std::vector<FoundLayer> match(const torch::nn::Module& module, const nlohmann::json& config, bool strict);

// Names of the model's parameters and buffers that are trained in place with an adapter on `layers`: modules_to_save
// and biases.
std::vector<std::string> kept_names(const torch::nn::Module& module, const nlohmann::json& config,
                                    const std::vector<FoundLayer>& layers, bool strict);

}  // namespace veneer
