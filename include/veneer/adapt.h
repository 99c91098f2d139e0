// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Adapting a LibTorch model. Every function takes the model that was adapted: paths are relative to it. None of them
// changes anything when it throws.
#pragma once

#include <torch/nn/module.h>

#include <initializer_list>
#include <iosfwd>
#include <string>
#include <vector>

#include "veneer/adapter_options.h"

namespace veneer {

// Which layers to adapt, by HF PEFT's rules: a list of names ("query": every path that is "query" or ends in ".query"),
// one regular expression for the whole path, or "all-linear". Empty: the configuration's own target_modules.
class Targets {
 public:
  Targets() = default;
  Targets(std::initializer_list<std::string> names) : names_(names) {}
  Targets(std::vector<std::string> names) : names_(std::move(names)) {}  // NOLINT(google-explicit-constructor)
  Targets(std::string pattern) : pattern_(std::move(pattern)) {}         // NOLINT(google-explicit-constructor)
  Targets(const char* pattern) : pattern_(pattern) {}                    // NOLINT(google-explicit-constructor)

  const std::vector<std::string>& names() const { return names_; }
  const std::string& pattern() const { return pattern_; }

 private:
  std::vector<std::string> names_;
  std::string pattern_;
};

// What adapt or load_adapter did. Prints as a short table.
struct Report {
  struct Layer {
    std::string path;
    std::string method;
    int64_t parameters = 0;  // trainable ones of the adapter in this layer
  };
  std::string adapter;
  std::vector<Layer> layers;
  std::vector<std::string> kept;   // the model's own parameters trained beside it (modules_to_save, biases)
  int64_t adapter_parameters = 0;  // trainable numbers of the adapter, shared ones counted once
  int64_t trainable = 0;           // of the whole model: what trainable_parameters holds
  int64_t total = 0;
  bool active = true;  // false: another adapter acts; see set_active
};
std::ostream& operator<<(std::ostream& stream, const Report& report);

// Attaches a new adapter to the matched layers and freezes everything else. It acts at once if no other adapter does.
Report adapt(torch::nn::Module& module, const AdapterConfig& config, const Targets& targets = {},
             const std::string& adapter = "default");

// The parameters to hand to an optimizer: those that require a gradient.
std::vector<torch::Tensor> trainable_parameters(const torch::nn::Module& module);

std::vector<std::string> adapter_names(const torch::nn::Module& module);
std::vector<std::string> active_adapters(const torch::nn::Module& module);
// Makes exactly these adapters act and train. Several on one layer: additive ones sum, scalings multiply, anything else
// beside another is refused.
void set_active(torch::nn::Module& module, const std::vector<std::string>& adapters);
// While disabled, adapted layers compute as the base does. Modules trained in place (modules_to_save) stay as they are.
void disable(torch::nn::Module& module);
void enable(torch::nn::Module& module);
void delete_adapter(torch::nn::Module& module, const std::string& adapter);

// Puts the acting adapters into the weights, all layers or none. The base's own tensors are kept until unmerge puts
// them back, bit for bit. While merged the model does not train, and adapters cannot be added, deleted or activated;
// save_adapter works.
void merge(torch::nn::Module& module);
void unmerge(torch::nn::Module& module);
// Merges and removes all adapters: a plain model, whose save_weights file any program reads.
void merge_and_unload(torch::nn::Module& module);
// Removes all adapters.
void unload(torch::nn::Module& module);

// A table: each layer with its adapters, their parameters, how forward computes, and why.
std::string explain(const torch::nn::Module& module);

}  // namespace veneer
