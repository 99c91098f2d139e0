// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Base weights: the model's own names, adapters left out.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "checkpoint/fill.h"
#include "checkpoint/new_file.h"
#include "layers/attach.h"
#include "layers/walk.h"
#include "veneer/check.h"
#include "veneer/checkpoint.h"
#include "veneer/safetensors.h"

namespace veneer {
namespace {

bool derives(const LayerAdapter& part) {
  return std::any_of(part.bound->specs.begin(), part.bound->specs.end(),
                     [](const ParameterSpec& spec) { return spec.initial.kind == Initial::Kind::derived; });
}

// Whether the tensors a part derived from the base weight (DoRA's magnitude) still are what they started at. Found by
// starting copies: nothing has to be remembered.
bool at_its_start(const AdaptedLayer& layer, const LayerAdapter& part) {
  if (!derives(part)) return false;
  std::vector<at::Tensor> copies;
  for (const auto& tensor : part.tensors) copies.push_back(tensor.detach().clone());
  part.bound->method->start(layer.base_weight().detach(), Params(part.bound->specs, copies));
  for (size_t i = 0; i < copies.size(); ++i) {
    if (!at::equal(copies[i], part.tensors[i])) return false;
  }
  return true;
}

}  // namespace

void load_weights(torch::nn::Module& module, const std::string& path) {
  check_unmerged(module, "weights are loaded");
  const SafetensorsFile file(path);
  Wanted wanted;
  for (const auto& [name, tensor] : base_tensors(module)) wanted.emplace(name, tensor.detach());
  const c10::NoGradGuard no_grad;
  std::vector<std::pair<AdaptedLayer*, const LayerAdapter*>> restart;
  for (const auto& found : layers_of(module)) {
    for (const auto& part : found.layer->adapters()) {
      if (at_its_start(*found.layer, part)) restart.emplace_back(found.layer, &part);
    }
  }
  fill("load_weights", file, path, wanted);
  for (const auto& [layer, part] : restart) part->bound->method->start(layer->base_weight().detach(), part->params());
}

void save_weights(const torch::nn::Module& module, const std::string& path) {
  check_unmerged(module, "the base's weights are saved (or call merge_and_unload to save merged ones)");
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : base_tensors(module)) tensors.emplace(name, tensor);
  make_folders(folder_of(path));
  write_safetensors(path, tensors);
}

}  // namespace veneer
