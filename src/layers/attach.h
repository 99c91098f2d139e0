// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What adapt and load_adapter share: making a new adapter's parts, adding them, freezing the rest, reporting.
#pragma once

#include <functional>

#include "layers/walk.h"
#include "veneer/adapt.h"

namespace veneer {

// An adapter's parts before they are added: nothing in the model has changed yet.
struct Prepared {
  std::shared_ptr<const Adapter> adapter;
  std::vector<FoundLayer> layers;
  std::vector<LayerAdapter> parts;  // one per layer, tensors made, still inactive
};

// Makes all parts of a new adapter. `start`: draw the tensors' start; else they are left for a file to fill, apart from
// shared ones that files do not hold.
Prepared prepare(const torch::nn::Module& module, Adapter adapter, std::vector<FoundLayer> layers, bool start);
// Adds the parts, activates them if no other adapter acts, and freezes the rest of the model.
Report attach(torch::nn::Module& module, Prepared prepared);

// Freezes the modules of a model that are not veneer's where its copies came out unfrozen; see AdaptedLayer.
void settle(const torch::nn::Module& module);
void check_unmerged(const torch::nn::Module& module, const char* doing);

}  // namespace veneer
