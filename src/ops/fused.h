// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A method's fused path as one op with its own gradient.
#pragma once

#include "veneer/method.h"
#include "veneer/registry.h"

namespace veneer {

// The output [*, d_out] through veneer::fused.
at::Tensor call_fused(const BoundMethod& bound, const Input& in, at::TensorList params, const std::string& build);

}  // namespace veneer
