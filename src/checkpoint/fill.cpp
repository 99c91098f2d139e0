// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/fill.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "veneer/check.h"

namespace veneer {
namespace {

// "a, b, c and 9 more": an error must stay readable when the wrong file was given.
std::string listed(const std::vector<std::string>& names) {
  constexpr size_t most = 12;
  if (names.size() <= most) return join(names);
  return join({names.begin(), names.begin() + most}) + " and " + std::to_string(names.size() - most) + " more";
}

}  // namespace

void fill(const char* owner, const SafetensorsFile& file, const std::string& path, const Wanted& wanted) {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> mismatched;
  for (const auto& [key, tensor] : wanted) {
    const auto found = file.entries().find(key);
    if (found == file.entries().end()) {
      missing.push_back(key);
    } else if (tensor.sizes() != at::IntArrayRef(found->second.shape)) {
      mismatched.push_back(
          c10::str(key, " (expected ", tensor.sizes(), ", got ", at::IntArrayRef(found->second.shape), ")"));
    } else if (tensor.is_floating_point() != c10::isFloatingType(found->second.dtype)) {
      mismatched.push_back(c10::str(key, " (expected ", tensor.scalar_type(), ", got ", found->second.dtype, ")"));
    }
  }
  for (const auto& [key, entry] : file.entries()) {
    if (wanted.count(key) == 0) unexpected.push_back(key);
  }
  std::string problems;
  if (!missing.empty()) problems += "; missing: " + listed(missing);
  if (!unexpected.empty()) problems += "; unexpected: " + listed(unexpected);
  if (!mismatched.empty()) problems += "; wrong shape or type: " + listed(mismatched);
  VENEER_CHECK(problems.empty(), owner, path, " does not fit this model", problems);

  std::map<std::string, at::Tensor> read;  // before the first copy: a tensor's bytes can still be refused
  for (const auto& [key, tensor] : wanted) read.emplace(key, file.tensor(key));
  const c10::NoGradGuard no_grad;
  for (const auto& [key, tensor] : wanted) tensor.copy_(read.at(key));
}

}  // namespace veneer
