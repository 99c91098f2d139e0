// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/parameter.h"

#include "veneer/check.h"

namespace veneer {

const at::Tensor& Params::operator[](std::string_view name) const {
  for (size_t i = 0; i < specs_->size(); ++i) {
    const std::string& full = (*specs_)[i].name;
    if (full.size() == prefix_.size() + name.size() && full.compare(0, prefix_.size(), prefix_) == 0 &&
        full.compare(prefix_.size(), name.size(), name) == 0) {
      TORCH_INTERNAL_ASSERT(i < tensors_.size(), "parameter ", full, " has no tensor");
      return tensors_[i];
    }
  }
  TORCH_INTERNAL_ASSERT(false, "no parameter called ", prefix_, name);
}

ParameterSpecs with_prefix(ParameterSpecs specs, const std::string& name_prefix, const std::string& key_prefix) {
  for (auto& spec : specs) {
    spec.name = name_prefix + spec.name;
    spec.key = key_prefix + spec.key;
  }
  return specs;
}

}  // namespace veneer
