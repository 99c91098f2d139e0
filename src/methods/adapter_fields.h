// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The fields that configurations of adapter layers share, and those that are the method `bottleneck` with some
// matrices.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "veneer/config.h"

namespace veneer {

// Their fields beside the matrices': bottleneck_size, reduction_factor, placement, non_linearity, scaling, dropout,
// use_bias and hidden_size, with these defaults (a size of 0: d / reduction_factor).
OptionTable bottleneck_fields(const std::string& placement, const std::string& non_linearity, int64_t bottleneck_size,
                              double reduction_factor);
// Those of them that every adapter layer has: placement, non_linearity, scaling, dropout, use_bias and hidden_size.
// `where` and `biases`: the help of non_linearity and use_bias.
OptionTable layer_fields(const std::string& placement, const std::string& non_linearity, const std::string& where,
                         const std::string& biases);
// The method with these fields. `start`: "zero_up" or "bert".
MethodCall bottleneck_call(const nlohmann::json& down, const nlohmann::json& up, const Options& fields,
                           const std::string& start = "zero_up");

// Where adapter layers can go in known architectures.
const std::vector<std::string>& placements();
// Fields that have an effect only with these values of the field `kind`: with another one of them they would be ignored
// silently, and are an error where they are not at their defaults.
using OnlyWith = std::map<std::string, std::vector<std::string>>;
void refuse_others(const std::string& owner, const OptionTable& table, const nlohmann::json& fields,
                   const std::string& kind, const OnlyWith& only);
// For configurations that are layers or not: checks the field `placement`, and sets it to `fallback` for a layer that
// names none.
void default_placement(const std::string& owner, nlohmann::json& fields, bool layer, const std::string& fallback);

}  // namespace veneer
