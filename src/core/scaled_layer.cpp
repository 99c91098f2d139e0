// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/scaled_layer.h"

#include <ATen/ATen.h>

#include "core/rescaling.h"
#include "device/extended.h"

namespace veneer {

bool ScaledLayer::in_product(const at::Tensor& rows) const { return device::takes_extended(rows, weight, /*rank=*/0); }

ScaledLayer::Output ScaledLayer::forward(const at::Tensor& x) const {
  if (x.size(0) == 0) {
    const at::Tensor none = at::empty({0, weight.size(0)}, x.options());
    return {none, at::empty_like(none)};
  }
  if (in_product(x)) {
    const auto [y, plain] = device::extended_gained(x, weight, {}, {}, bias, l, /*gains_bias=*/true);
    return {y, plain};
  }
  const at::Tensor plain = at::linear(x, weight, bias);
  return {rescaled(plain, l, {}), plain};
}

ScaledLayer::Gradients ScaledLayer::backward(const at::Tensor& dy, const at::Tensor& plain, bool wants_x,
                                             bool rounded) const {
  if (dy.size(0) == 0) {
    return {wants_x ? at::empty({0, weight.size(1)}, dy.options()) : at::Tensor(), at::zeros_like(l)};
  }
  if (wants_x && in_product(dy) && device::takes_extended_gradients(dy, weight, {}, /*rank=*/0)) {
    const Gain gain{l, plain, {}, rounded};
    const auto found = device::extended_gradients(dy, {}, {weight, {}, {}, /*rounded=*/false, gain, {}});
    return {found.x, found.gain};
  }
  const bool scales_weight = wants_x && dy.size(0) > weight.size(1);  // which is then the smaller
  const Rescaled found = rescaled_pullback(dy, plain, {}, l, wants_x && !scales_weight);
  if (!wants_x) return {{}, found.gain};
  return {scales_weight ? at::mm(dy, scaled_rows(weight, l)) : at::mm(found.y, weight), found.gain};
}

}  // namespace veneer
