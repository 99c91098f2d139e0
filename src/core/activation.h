// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The nonlinearities of adapter layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace veneer {

const std::vector<std::string>& activations();  // their names
at::Tensor activate(const std::string& name, const at::Tensor& h);
// The gradient of h from that of activate(h), where nothing is recorded.
at::Tensor activate_pullback(const std::string& name, const at::Tensor& h, const at::Tensor& gradient);

}  // namespace veneer
