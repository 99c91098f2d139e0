// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// An op's arguments as the dispatcher has them, and as methods do (an undefined tensor for one that is absent).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

namespace veneer {

using Text = const std::string&;
using OptionalTensor = std::optional<at::Tensor>;

inline OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}
inline at::Tensor tensor(const OptionalTensor& optional) { return optional.value_or(at::Tensor()); }

}  // namespace veneer
