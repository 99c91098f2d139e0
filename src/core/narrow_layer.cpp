// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/narrow_layer.h"

#include <ATen/ATen.h>

#include "core/activation.h"
#include "core/narrow_tiles.h"
#include "core/products.h"
#include "core/rescaling.h"
#include "core/routes.h"
#include "core/thin.h"
#include "device/narrow_layer.h"

namespace veneer {
namespace {

bool on_device(const NarrowLayer& layer, const Dropped& x) {
  return !x.seed.defined() && device::takes_narrow(x.x, layer.down.size(0), layer.up.size(0));
}

// Whether a tile goes through the whole layer in the cache: the loop's numbers are float32, so not where products of
// bfloat16 pairs are taken.
bool in_a_loop(const NarrowLayer& layer, const Dropped& x) {
  return takes_tiles(x, layer.down.size(0)) && !cpu::takes_pairs(x.x);
}

std::string served_by(const NarrowLayer& layer, const Dropped& x) {
  if (in_a_loop(layer, x)) return "one loop over tiles of rows each way, on all threads";
  if (on_device(layer, x)) return "a GPU's kernel, one pass over the rows each way";
  return products_served_by(x, layer.down.size(0));
}

}  // namespace

NarrowLayer::Output NarrowLayer::forward(const Dropped& x, const at::Tensor& base) const {
  if (routes_wanted()) {
    add_route(c10::str("[", up.size(0), ", ", up.size(1), "] and [", down.size(0), ", ", down.size(1), "] dense, ",
                       x.x.size(0), " rows of ", x.x.scalar_type(), ": ", served_by(*this, x)));
  }
  if (in_a_loop(*this, x)) return cpu::narrow_forward(*this, x, base);
  if (on_device(*this, x)) return device::narrow_forward(*this, x.x, base);
  at::Tensor z = reduce(x, down, down_scale);
  if (down_bias.defined()) z.add_(down_bias);
  return {expand(activate(activation, z), up.t(), up_scale, {}, up_bias, base), z};
}

NarrowLayer::Gradients NarrowLayer::backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& z,
                                             const at::Tensor& residual, bool wants_x) const {
  if (in_a_loop(*this, x)) return cpu::narrow_backward(*this, dy, x, z, residual, wants_x);
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
