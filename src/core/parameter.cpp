// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/parameter.h"

#include <algorithm>
#include <tuple>

#include "veneer/check.h"

namespace veneer {

size_t Params::place(std::string_view name) const {
  for (size_t i = 0; i < specs_->size(); ++i) {
    const auto& [full, common] = std::tie((*specs_)[i].name, (*specs_)[i].common);
    const size_t length = common ? 0 : prefix_.size();
    if (full.size() == length + name.size() && full.compare(0, length, prefix_, 0, length) == 0 &&
        full.compare(length, name.size(), name) == 0) {
      TORCH_INTERNAL_ASSERT(i < tensors_.size(), "parameter ", full, " has no tensor");
      return i;
    }
  }
  TORCH_INTERNAL_ASSERT(false, "no parameter called ", prefix_, name);
}

ParameterSpecs with_prefix(ParameterSpecs specs, const std::string& name_prefix, const std::string& key_prefix) {
  for (auto& spec : specs) {
    if (spec.common) continue;
    spec.name = name_prefix + spec.name;
    spec.key = key_prefix + spec.key;
  }
  return specs;
}

void add_shared(ParameterSpecs& all, const ParameterSpecs& specs) {
  for (const auto& spec : specs) {
    const bool known = std::any_of(all.begin(), all.end(), [&](const auto& other) { return other.name == spec.name; });
    if (!(spec.common && known)) all.push_back(spec);
  }
}

}  // namespace veneer
