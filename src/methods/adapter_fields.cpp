// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "methods/adapter_fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/activation.h"
#include "veneer/check.h"

namespace veneer {

const std::vector<std::string>& placements() {
  static const std::vector<std::string> names{"houlsby", "houlsby_feedforward", "pfeiffer", "parallel"};
  return names;
}

void refuse_others(const std::string& owner, const OptionTable& table, const nlohmann::json& fields,
                   const std::string& kind, const OnlyWith& only) {
  const std::string chosen = fields.at(kind);
  for (const auto& option : table) {
    const auto found = only.find(option.name);
    if (found == only.end()) continue;
    const auto& kinds = found->second;
    const nlohmann::json& value = fields.at(option.name);
    const bool allowed = std::find(kinds.begin(), kinds.end(), chosen) != kinds.end();
    VENEER_CHECK(allowed || value == nlohmann::json::parse(option.fallback), owner, option.name, " is of ", kind, " ",
                 join(kinds), "; got ", value.dump(), " with ", kind, " ", chosen);
  }
}

void default_placement(const std::string& owner, nlohmann::json& fields, bool layer, const std::string& fallback) {
  nlohmann::json& placement = fields.at("placement");
  if (placement.is_null()) {
    if (layer) placement = fallback;
    return;
  }
  VENEER_CHECK(layer, owner, "placement is of adapter layers; this configuration changes weights");
  const bool known = placement.is_string() && std::find(placements().begin(), placements().end(),
                                                        placement.get<std::string>()) != placements().end();
  VENEER_CHECK(known, owner, "placement must be one of: ", join(placements()), "; got ", placement.dump());
}

OptionTable bottleneck_fields(const std::string& placement, const std::string& non_linearity, int64_t bottleneck_size,
                              double reduction_factor) {
  return OptionTable{
             Option::integer("bottleneck_size", bottleneck_size, "m, the inner size; 0 means d / reduction_factor", 0),
             Option::number("reduction_factor", reduction_factor, "d / m, m rounded down, at least 1", 1e-3)} +
         layer_fields(placement, non_linearity, "between down and up", "train biases after down and up");
}

OptionTable layer_fields(const std::string& placement, const std::string& non_linearity, const std::string& where,
                         const std::string& biases) {
  return {Option::choice("placement", placement,
                         "after attention and feed-forward, after the feed-forward alone, after its norm, or beside it",
                         placements()),
          Option::choice("non_linearity", non_linearity, where, activations()),
          Option::number("scaling", 1.0, "factor on the adapter's output"),
          Option::number("dropout", 0.0, "probability of dropping an element of the adapter's input", 0.0, 0.9999),
          Option::flag("use_bias", true, biases),
          Option::integer("hidden_size", 0, "d where neither the model's config nor the module tells it; 0: found", 0)};
}

MethodCall bottleneck_call(const nlohmann::json& down, const nlohmann::json& up, const Options& fields,
                           const std::string& start) {
  return method_call("bottleneck", {{"size", fields.integer("bottleneck_size")},
                                    {"reduction_factor", fields.number("reduction_factor")},
                                    {"activation", fields.text("non_linearity")},
                                    {"down", down},
                                    {"up", up},
                                    {"scale", fields.number("scaling")},
                                    {"dropout", fields.number("dropout")},
                                    {"bias", fields.flag("use_bias")},
                                    {"init", start}});
}

}  // namespace veneer
