// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/narrow_layer.h"

#include <ATen/ATen.h>

#include "core/activation.h"
#include "core/narrow_tiles.h"
#include "core/products.h"
#include "core/rescaling.h"
#include "core/routes.h"
#include "device/narrow_layer.h"

namespace veneer {
namespace {

bool on_device(const NarrowLayer& layer, const Dropped& x) {
  return !x.seed.defined() && device::takes_narrow(x.x, layer.down.size(0), layer.up.size(0));
}

std::string served_by(const NarrowLayer& layer, const Dropped& x) {
  const int64_t m = layer.down.size(0);
  if (takes_tiles(x, m)) return "one loop over tiles of rows each way, on all threads";
  return on_device(layer, x) ? "a GPU's kernel, one pass over the rows each way" : products_served_by(x, m);
}

}  // namespace

NarrowLayer::Output NarrowLayer::forward(const Dropped& x, const at::Tensor& base) const {
  if (routes_wanted()) {
    add_route(c10::str("[", up.size(0), ", ", up.size(1), "] and [", down.size(0), ", ", down.size(1), "] dense, ",
                       x.x.size(0), " rows of ", x.x.scalar_type(), ": ", served_by(*this, x)));
  }
  if (takes_tiles(x, down.size(0))) return cpu::narrow_forward(*this, x, base);
  if (on_device(*this, x)) return device::narrow_forward(*this, x.x, base);
  at::Tensor z = reduce(x, down, down_scale);
  if (down_bias.defined()) z.add_(down_bias);
  return {expand(activate(activation, z), up.t(), up_scale, {}, up_bias, base), z};
}

NarrowLayer::Gradients NarrowLayer::backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& z,
                                             const at::Tensor& residual, bool wants_x) const {
  if (takes_tiles(x, down.size(0))) return cpu::narrow_backward(*this, dy, x, z, residual, wants_x);
  if (on_device(*this, x)) return device::narrow_backward(*this, dy, x.x, z, residual, wants_x);
  Gradients result;
  const auto [da, dup] = reduce_and_sum(dy, up.t(), activate(activation, z), up_scale, up_scale, rounded);
  const at::Tensor dz = activate_pullback(activation, z, da).contiguous();
  result.up = dup;
  result.down = sum_rows(x, dz, down_scale, rounded);
  if (up_bias.defined()) result.up_bias = sum_of_rows(dy);
  if (down_bias.defined()) result.down_bias = sum_of_rows(dz);
  if (wants_x) result.x = expand(dz, down, down_scale, x, {}, residual);
  return result;
}

}  // namespace veneer
