// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <iomanip>
#include <sstream>

#include "layers/walk.h"
#include "veneer/adapt.h"

namespace veneer {

std::string explain(const torch::nn::Module& module) {
  using Row = std::array<std::string, 4>;
  std::vector<Row> rows{{"layer", "adapters", "parameters", "forward"}};
  for (const auto& [path, layer] : layers_of(module)) {
    std::string adapters;
    int64_t numbers = 0;
    for (const auto& part : layer->adapters()) {
      adapters +=
          (adapters.empty() ? "" : ", ") + part.name() + ": " + part.bound->name + (part.active ? "" : " (inactive)");
      for (size_t i = 0; i < part.bound->own; ++i) {
        if (part.bound->specs[i].trainable) numbers += part.tensors[i].numel();
      }
    }
    rows.push_back({path, adapters.empty() ? "-" : adapters, std::to_string(numbers), layer->route()});
  }
  std::array<size_t, 4> widths{};
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::ostringstream text;
  for (const auto& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); ++i)
      text << std::left << std::setw(static_cast<int>(widths[i]) + 2) << row[i];
    text << row.back() << "\n";
  }
  return text.str();
}

}  // namespace veneer
