// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Registry and specs as JSON: what crosses to Python.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "veneer/registry.h"

namespace veneer {

nlohmann::json specs_to_json(const ParameterSpecs& specs);
ParameterSpecs specs_from_json(const nlohmann::json& value);

// Every method, matrix and configuration with its options table.
nlohmann::json registry_to_json();
// A config's sites bound together: as bind_to_json, with "method" in each site.
nlohmann::json bind_config_to_json(const std::string& config, const std::vector<std::string>& sites);
// The config checked and completed; `file`: with the tolerance files are due (AdapterConfig::from_file).
nlohmann::json check_config_to_json(const std::string& config, bool file);
// `bind` over JSON: {"sites": [...], "shared": [...]}.
nlohmann::json bind_to_json(const std::string& method, const std::vector<std::string>& options,
                            const std::vector<std::string>& sites);

}  // namespace veneer
