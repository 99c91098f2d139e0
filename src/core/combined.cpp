// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/combined.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "veneer/registry.h"

namespace veneer {

Parts::Parts(const Options& options, const std::string& option, const std::vector<MatrixSite>& sites) {
  const auto matrices = options.matrices(option);
  for (size_t k = 0; k < sites.size(); ++k) parts_.push_back(bind_matrix(matrices[k], sites[k]));
}

ParameterSpecs Parts::parameters() const {
  ParameterSpecs all;
  for (size_t k = 0; k < size(); ++k) {
    const auto specs = with_prefix(parts_[k]->parameters(), prefix(k), prefix(k));
    all.insert(all.end(), specs.begin(), specs.end());
  }
  return all;
}

ParameterSpecs Parts::shared(const Options& options, const std::string& option,
                             const std::vector<std::vector<MatrixSite>>& sites) {
  ParameterSpecs all;
  const auto matrices = options.matrices(option);
  for (size_t k = 0; k < matrices.size(); ++k) {
    const auto specs = shared_of(matrices[k], sites, [&](const std::vector<MatrixSite>& parts) { return parts[k]; });
    add_shared(all, with_prefix(specs, prefix(k), prefix(k)));
  }
  return all;
}

// A list is flat, so each part's tensors follow an empty one whose second size is their number.
std::vector<at::Tensor> Parts::prepare(const Params& params) const {
  std::vector<at::Tensor> all;
  for (size_t k = 0; k < size(); ++k) {
    const auto own = parts_[k]->prepare(this->params(params, k));
    all.push_back(at::empty({0, static_cast<int64_t>(own.size())}, own.front().options()));
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

at::TensorList Parts::prepared(at::TensorList all, size_t k) {
  size_t place = 0;
  for (; k > 0; --k) place += 1 + static_cast<size_t>(all[place].size(1));
  return all.slice(place + 1, static_cast<size_t>(all[place].size(1)));
}

bool Parts::placed() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->placed(); });
}

}  // namespace veneer
