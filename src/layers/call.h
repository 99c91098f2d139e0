// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The generic ops as C++ functions: through the dispatcher, as Python calls them.
#pragma once

#include "veneer/method.h"
#include "veneer/registry.h"

namespace veneer {

at::Tensor call_forward(const BoundMethod& bound, const Input& in, at::TensorList params);
at::Tensor call_input(const BoundMethod& bound, const at::Tensor& x, at::TensorList params);

}  // namespace veneer
