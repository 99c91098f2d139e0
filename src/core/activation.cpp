// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/activation.h"

#include <ATen/ATen.h>

namespace veneer {

const std::vector<std::string>& activations() {
  static const std::vector<std::string> names{"gelu", "gelu_tanh", "relu", "silu", "tanh"};
  return names;
}

at::Tensor activate(const std::string& name, const at::Tensor& h) {
  if (name == "gelu") return at::gelu(h);
  if (name == "gelu_tanh") return at::gelu(h, "tanh");
  if (name == "relu") return at::relu(h);
  if (name == "silu") return at::silu(h);
  return at::tanh(h);
}

at::Tensor activate_pullback(const std::string& name, const at::Tensor& h, const at::Tensor& gradient) {
  if (name == "gelu") return at::gelu_backward(gradient, h);
  if (name == "gelu_tanh") return at::gelu_backward(gradient, h, "tanh");
  if (name == "relu") return at::threshold_backward(gradient, h, 0.0);
  if (name == "silu") return at::silu_backward(gradient, h);
  return at::tanh_backward(gradient, at::tanh(h));
}

}  // namespace veneer
