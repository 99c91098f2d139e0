// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/projections.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/activation.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using Tensors = std::vector<at::Tensor>;

// `all`, one for each parameter and perhaps more, plus those of `others`.
Tensors sum_of(Tensors all, const Tensors& others) {
  for (size_t i = 0; i < others.size(); ++i) {
    if (others[i].defined()) all[i] = all[i].defined() ? all[i] + others[i] : others[i];
  }
  return all;
}

}  // namespace

at::Tensor Projections::apply(const at::Tensor& x, const Params& params, const at::Tensor& residual) const {
  return up_.apply(activate(activation_, down_.apply(x, params)), params, residual);
}

// Whether both projections of these rows are products with dense matrices, and narrow ones.
bool Projections::both_dense(const at::Tensor& x, const Params& params) const {
  const int64_t m = inner_size(), d = std::min(down_.matrix().d_in(), up_.matrix().d_out());
  if (x.is_meta() || x.size(0) == 0 || m > d) return false;
  const at::Tensor inner = x.flatten().narrow(0, 0, x.size(0) * m).view({x.size(0), m});  // to ask about its rows
  return down_.multiplies_dense(x, params) && up_.multiplies_dense(inner, params);
}

NarrowLayer Projections::layer(const at::Tensor& x, const Params& params, const at::Tensor& down,
                               const at::Tensor& up) const {
  const bool rounded = down.scalar_type() == x.scalar_type() && up.scalar_type() == x.scalar_type();
  return {activation_,         as(down, x),   down_.bias(params, x), as(up, x).contiguous(),
          up_.bias(params, x), down_.scale(), up_.scale(),           rounded};
}

Tensors Projections::forward(const Dropped& x, const at::Tensor& residual, const Params& params) const {
  if (both_dense(x.x, params)) {
    const auto [y, z] = layer(x.x, params, down_.built(params), up_.built(params)).forward(x, residual);
    return {y, z};
  }
  const Tensors kept = down_.forward(x, {}, params);
  Tensors out = up_.forward({activate(activation_, kept[0])}, residual, params);
  out.insert(out.begin() + 1, kept.begin(), kept.end());
  return out;
}

Tensors Projections::backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual, const Params& params,
                              const Tensors& kept, bool wants_x) const {
  if (both_dense(x.x, params)) return backward_of_layer(dy, x, residual, params, kept[0], wants_x);
  const auto of_up = kept.begin() + (down_.matrix().form() == Matrix::Form::factors ? 2 : 1);
  Tensors gradients =
      up_.backward(dy, {activate(activation_, kept[0])}, {}, params, {of_up, kept.end()}, /*wants_x=*/true);
  const at::Tensor dz = activate_pullback(activation_, kept[0], gradients.back()).contiguous();
  gradients.pop_back();
  return sum_of(down_.backward(dz, x, residual, params, {kept.begin() + 1, of_up}, wants_x), gradients);
}

Tensors Projections::backward_of_layer(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual,
                                       const Params& params, const at::Tensor& z, bool wants_x) const {
  const Recorded down = down_.recorded(params), up = up_.recorded(params);
  const auto found =
      layer(x.x, params, down.prepared()[0].detach(), up.prepared()[0].detach()).backward(dy, x, z, residual, wants_x);
  Tensors gradients = sum_of(down_.gradients(down, found.down, found.down_bias, params),
                             up_.gradients(up, found.up, found.up_bias, params));
  if (wants_x) gradients.push_back(found.x);
  return gradients;
}

}  // namespace veneer
