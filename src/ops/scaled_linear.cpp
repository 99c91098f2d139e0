// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "ops/scaled_linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/routes.h"
#include "core/scaled_layer.h"
#include "ops/arguments.h"
#include "ops/scaled_columns.h"
#include "ops/takes.h"
#include "veneer/check.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using at::Tensor;
using Two = std::tuple<Tensor, Tensor>;
// Gives the layer's own output too, which is differentiable: second derivatives go through it.
using Forward = Two(const Tensor&, const Tensor&, const OptionalTensor&, const Tensor&);
using Backward = Two(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool);

auto forward_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("veneer::scaled_linear", "").typed<Forward>();
  return op;
}

auto backward_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("veneer::scaled_linear_backward", "").typed<Backward>();
  return op;
}

void check(const Tensor& x, const Tensor& weight, const Tensor& l) {
  VENEER_CHECK(
      x.dim() >= 1 && weight.dim() == 2 && x.sym_size(-1) == weight.sym_size(1) && l.sym_numel() == weight.sym_size(0),
      "scaled_linear", "expected x [*, d_in], weight [d_out, d_in] and d_out numbers in l, got ", x.sym_sizes(), ", ",
      weight.sym_sizes(), " and ", l.sym_sizes());
}

Two forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& l) {
  check(x, weight, l);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor all = rows(x).contiguous();
  const ScaledLayer layer{weight, tensor(bias), column_of(l)};
  if (routes_wanted()) {
    add_route(c10::str("l [", l.numel(), "], ", all.size(0), " rows of ", x.scalar_type(), ": ",
                       layer.in_product(all) ? "in the layer's own product" : "one pass each way"));
  }
  const auto [y, plain] = layer.forward(all);
  return {unrows(y, x), unrows(plain, x)};
}

Two backward(const Tensor& dy, const Tensor& plain, const Tensor& weight, const Tensor& l, bool wants_x) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const ScaledLayer layer{weight, {}, column_of(l)};
  const auto found = layer.backward(rows(dy).contiguous(), rows(plain).contiguous(), wants_x,
                                    /*rounded=*/l.scalar_type() == dy.scalar_type());
  return {wants_x ? unrows(found.x, dy) : at::empty({0}, dy.options()), as(found.l, l).view_as(l)};
}

Tensor empty_rows(const Tensor& like, const c10::SymInt& columns) {
  auto sizes = like.sym_sizes().vec();
  sizes.back() = columns;
  return at::empty_symint(sizes, like.options());
}

Two meta(const Tensor& x, const Tensor& weight, const OptionalTensor& /*bias*/, const Tensor& l) {
  check(x, weight, l);
  const Tensor y = empty_rows(x, weight.sym_size(0));
  return {y, at::empty_like(y)};
}

Two backward_meta(const Tensor& dy, const Tensor& /*plain*/, const Tensor& weight, const Tensor& l, bool wants_x) {
  return {wants_x ? empty_rows(dy, weight.sym_size(1)) : at::empty({0}, dy.options()), at::empty_like(l)};
}

class ScaledLinearFunction : public torch::autograd::Function<ScaledLinearFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& x,
                                                const Tensor& weight, const OptionalTensor& bias, const Tensor& l) {
    Tensor y, plain;
    {
      const at::AutoDispatchBelowADInplaceOrView below;
      std::tie(y, plain) = forward_op().call(x, weight, bias, l);
    }
    context->save_for_backward({l.requires_grad() ? plain : Tensor(), weight, l});
    context->set_materialize_grads(false);  // that of `plain` is seldom there
    return {y, plain};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &dy = gradients[0], &dplain = gradients[1], &plain = saved[0], &weight = saved[1], &l = saved[2];
    const bool wants_x = context->needs_input_grad(0);
    Tensor dx, dl;
    if (!at::GradMode::is_enabled() && dy.defined() && !dplain.defined() && plain.defined()) {
      const at::AutoDispatchBelowADInplaceOrView below;  // what the op calls would pass through autograd for nothing
      std::tie(dx, dl) = backward_op().call(dy, plain, weight, l, wants_x);
    } else {  // what can be differentiated again
      if (dy.defined() && plain.defined()) dl = as(rows(wide(dy) * wide(plain)).sum(0), l).view_as(l);
      Tensor slopes = dy.defined() ? scaled_columns(dy, l) : dplain;
      if (dy.defined() && dplain.defined()) slopes = slopes + dplain;
      if (wants_x && slopes.defined()) dx = at::matmul(slopes, weight);
    }
    return {wants_x ? dx : Tensor(), Tensor(), Tensor(), dl};
  }
};

Two autograd(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& l) {
  const auto outputs = ScaledLinearFunction::apply(x, weight, bias, l);
  return {outputs[0], outputs[1]};
}

// As autocast treats a linear layer; l is left as it is.
template <at::DeviceType device>
Two autocast(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& l) {
  const c10::impl::ExcludeDispatchKeyGuard off(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const Tensor& t) { return at::autocast::cached_cast(type, t, device); };
  return forward_op().call(cast(x), cast(weight), bias.has_value() ? OptionalTensor(cast(*bias)) : bias, l);
}

// Whether the op computes what the two calls do: autocast gives a layer one dtype, and l may not be wider.
bool serves(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& l) {
  if (requires_gradient(weight) || requires_gradient(bias) || is_wider(l, x) || !takes_op(x, {l})) return false;
  const auto type = x.scalar_type();
  const bool one_dtype = weight.scalar_type() == type && (!bias.defined() || bias.scalar_type() == type);
  return one_dtype || under_autocast(x);
}

}  // namespace

Tensor scaled_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& l) {
  if (!serves(x, weight, bias, l)) return scaled_columns(at::linear(x, weight, bias), l);
  return std::get<0>(forward_op().call(x, weight, optional(bias), l));
}

TORCH_LIBRARY_FRAGMENT(veneer, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("scaled_linear(Tensor x, Tensor weight, Tensor? bias, Tensor l) -> (Tensor, Tensor)", tags);
  m.def("scaled_linear_backward(Tensor dy, Tensor plain, Tensor weight, Tensor l, bool wants_x) -> (Tensor, Tensor)",
        tags);
}
TORCH_LIBRARY_IMPL(veneer, CPU, m) { m.impl("scaled_linear", forward), m.impl("scaled_linear_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, CUDA, m) { m.impl("scaled_linear", forward), m.impl("scaled_linear_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, Meta, m) { m.impl("scaled_linear", meta), m.impl("scaled_linear_backward", backward_meta); }
TORCH_LIBRARY_IMPL(veneer, Autograd, m) { m.impl("scaled_linear", autograd); }
TORCH_LIBRARY_IMPL(veneer, AutocastCPU, m) { m.impl("scaled_linear", autocast<at::kCPU>); }
TORCH_LIBRARY_IMPL(veneer, AutocastCUDA, m) { m.impl("scaled_linear", autocast<at::kCUDA>); }

}  // namespace veneer
