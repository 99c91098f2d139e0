// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "ops/takes.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "veneer/registry.h"

namespace veneer {

namespace {

bool has_tangent(const at::Tensor& t) { return t.defined() && t._fw_grad(/*level=*/0).defined(); }

}  // namespace

bool requires_gradient(const at::Tensor& t) { return t.defined() && t.requires_grad() && at::GradMode::is_enabled(); }

bool under_autocast(const at::Tensor& x) {
  // Asked of a meta tensor, torch fails: there is no autocast for it.
  const auto device = x.device().type();
  return device != at::kMeta && at::autocast::is_autocast_enabled(device);
}

bool takes_op(const at::Tensor& x, at::TensorList params) {
  if (composed_only()) return false;
  const auto device = x.device().type();
  if (device != at::kCPU && device != at::kCUDA && device != at::kMeta) return false;
  // torch.func, and forward-mode gradients.
  if (c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode)) return false;
  return !has_tangent(x) && std::none_of(params.begin(), params.end(), has_tangent);
}

bool takes_fused(const Method& method, const Input& in, at::TensorList params) {
  if (!method.fused(in) || !takes_op(in.x, params)) return false;
  if (in.y.defined() && method.needs_weight()) return false;  // the op is given one or the other
  if (!in.y.defined() && requires_gradient(in.weight)) return false;
  if (has_tangent(in.y) || has_tangent(in.weight) || has_tangent(in.bias)) return false;
  const at::Tensor& base = in.y.defined() ? in.y : in.weight;
  const bool one_dtype = in.x.scalar_type() == base.scalar_type() &&
                         (in.y.defined() || !in.bias.defined() || in.bias.scalar_type() == base.scalar_type());
  if (under_autocast(in.x)) {
    // It would round the weight before its rows' norms are taken, and a residual that is kept in float32.
    return !method.needs_weight() &&
           (!in.y.defined() || in.y.scalar_type() == at::autocast::get_autocast_dtype(in.x.device().type()));
  }
  return one_dtype;
}

}  // namespace veneer
