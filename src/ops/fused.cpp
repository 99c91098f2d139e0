// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "ops/fused.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/recording.h"
#include "ops/arguments.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using at::Tensor;
using Forward = std::vector<Tensor>(Text, Text, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                    const OptionalTensor&, at::TensorList, const OptionalTensor&, Text);
using Backward = std::vector<Tensor>(Text, Text, const Tensor&, const Tensor&, const OptionalTensor&,
                                     const OptionalTensor&, at::TensorList, at::TensorList, const OptionalTensor&, bool,
                                     bool, Text);

auto forward_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("veneer::fused", "").typed<Forward>();
  return op;
}

auto backward_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("veneer::fused_backward", "").typed<Backward>();
  return op;
}

std::vector<Tensor> forward(Text method, Text options, const Tensor& x, const OptionalTensor& y,
                            const OptionalTensor& weight, const OptionalTensor& bias, at::TensorList params,
                            const OptionalTensor& seed, Text /*build*/) {
  const PlainKeys keys;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto bound = from_plan(method, options);
  const Tensor residual = y.has_value() ? rows(*y).contiguous() : Tensor();
  std::vector<Tensor> outputs = bound->method->fused_forward(
      {rows(x).contiguous(), residual, tensor(weight), tensor(bias), tensor(seed)}, {bound->specs, params});
  outputs[0] = unrows(outputs[0], x);
  return outputs;
}

std::vector<Tensor> backward(Text method, Text options, const Tensor& dy, const Tensor& x, const OptionalTensor& weight,
                             const OptionalTensor& bias, at::TensorList params, at::TensorList kept,
                             const OptionalTensor& seed, bool residual, bool wants_x, Text /*build*/) {
  const PlainKeys keys;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto bound = from_plan(method, options);
  const Tensor g = rows(dy).contiguous();
  const Input in{rows(x).contiguous(), residual ? g : Tensor(), tensor(weight), tensor(bias), tensor(seed)};
  std::vector<Tensor> gradients = bound->method->fused_backward(g, in, {bound->specs, params}, kept.vec(), wants_x);
  for (size_t i = 0; i < params.size(); ++i) {
    if (gradients[i].defined()) continue;
    gradients[i] = bound->specs[i].trainable ? at::zeros_like(params[i].detach())  // nothing gave it one
                                             : at::empty({0}, x.options());        // an op returns only tensors
  }
  if (wants_x) gradients.back() = unrows(gradients.back(), x);
  return gradients;
}

class FusedFunction : public torch::autograd::Function<FusedFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, Text method, Text options,
                                                const Tensor& x, const OptionalTensor& y, const OptionalTensor& weight,
                                                const OptionalTensor& bias, at::TensorList params,
                                                const OptionalTensor& seed, Text build) {
    std::vector<Tensor> outputs;
    {
      const at::AutoDispatchBelowADInplaceOrView below;
      outputs = forward_op().call(method, options, x, y, weight, bias, params, seed, build);
    }
    torch::autograd::variable_list saved{x, tensor(seed), tensor(weight), tensor(bias)};
    saved.insert(saved.end(), params.begin(), params.end());
    saved.insert(saved.end(), outputs.begin() + 1, outputs.end());
    context->save_for_backward(saved);
    auto& data = context->saved_data;
    data["method"] = method;
    data["options"] = options;
    // One tensor in both places gets one gradient.
    data["y"] = static_cast<int64_t>(!y.has_value() ? Y::none : y->is_same(x) ? Y::x : Y::own);
    context->set_materialize_grads(false);  // no zeros as the gradients of what is kept
    // A compiled graph calls the op with all its outputs in view.
    context->mark_non_differentiable({outputs.begin() + 1, outputs.end()});
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    auto& data = context->saved_data;
    const Text method = data["method"].toStringRef(), options = data["options"].toStringRef();
    const auto y = static_cast<Y>(data["y"].toInt());
    const size_t count = from_plan(method, options)->specs.size();
    const at::TensorList rest(saved), params = rest.slice(4, count), kept = rest.slice(4 + count);
    std::vector<Tensor> results(count + 1);  // of params, then x
    const bool wants_x = context->needs_input_grad(0);
    if (gradients[0].defined()) {
      if (at::GradMode::is_enabled()) {
        results = differentiable(*context, gradients[0], saved, params);
      } else {
        const at::AutoDispatchBelowADInplaceOrView below;  // what the op calls would pass through autograd for nothing
        results = backward_op().call(method, options, gradients[0], saved[0], optional(saved[2]), optional(saved[3]),
                                     params, kept, optional(saved[1]), y == Y::x, wants_x, call_id());
      }
    }
    torch::autograd::variable_list all(2);  // of method and options
    all.push_back(wants_x ? results.back() : Tensor());
    all.push_back(y == Y::own ? gradients[0] : Tensor());
    all.push_back(Tensor());  // the weight is frozen
    // Of what is added to the output, whatever the method does to the rest.
    const bool wants_bias = saved[3].defined() && saved[3].requires_grad() && gradients[0].defined();
    all.push_back(wants_bias ? rows(gradients[0]).sum(0) : Tensor());
    all.insert(all.end(), results.begin(), results.begin() + static_cast<int64_t>(count));
    all.insert(all.end(), 2, Tensor());  // of seed and build
    return all;
  }

 private:
  enum class Y : int64_t { none, own, x };  // what the call was given as y

  // With create_graph: the gradient of the definition, which can be differentiated again.
  static std::vector<Tensor> differentiable(torch::autograd::AutogradContext& context, const Tensor& dy,
                                            torch::autograd::variable_list saved, at::TensorList params) {
    auto& data = context.saved_data;
    const auto bound = from_plan(data["method"].toStringRef(), data["options"].toStringRef());
    // Of views: one of these tensors may have been made of another (a layer that is called twice, say), and the
    // gradients of this call alone are asked for.
    std::vector<Tensor> own(params.begin(), params.end());
    torch::autograd::variable_list inputs;
    std::vector<size_t> places;
    const auto add = [&](Tensor& input, size_t place) {
      if (!input.requires_grad()) return;
      input = input.view_as(input);
      inputs.push_back(input);
      places.push_back(place);
    };
    for (size_t i = 0; i < own.size(); ++i) add(own[i], i);
    add(saved[0], own.size());
    std::vector<Tensor> results(own.size() + 1);
    const auto given = static_cast<Y>(data["y"].toInt());
    if (!inputs.empty()) {
      // The slope in y is one, so where the host called the base any y gives the same gradients.
      const Tensor y = given == Y::none ? Tensor() : at::zeros_like(dy);
      const Tensor out = bound->method->forward({saved[0], y, saved[2], saved[3], saved[1]}, {bound->specs, own});
      const auto found = torch::autograd::grad({out}, inputs, {dy}, /*retain_graph=*/true, /*create_graph=*/true,
                                               /*allow_unused=*/true);
      for (size_t i = 0; i < places.size(); ++i) results[places[i]] = found[i];
    }
    if (given == Y::x) results.back() = results.back().defined() ? results.back() + dy : dy;
    return results;
  }
};

std::vector<Tensor> autograd(Text method, Text options, const Tensor& x, const OptionalTensor& y,
                             const OptionalTensor& weight, const OptionalTensor& bias, at::TensorList params,
                             const OptionalTensor& seed, Text build) {
  return FusedFunction::apply(method, options, x, y, weight, bias, params, seed, build);
}

// As autocast treats a linear layer; the parameters are cast where they are used.
template <at::DeviceType device>
std::vector<Tensor> autocast(Text method, Text options, const Tensor& x, const OptionalTensor& y,
                             const OptionalTensor& weight, const OptionalTensor& bias, at::TensorList params,
                             const OptionalTensor& seed, Text build) {
  const c10::impl::ExcludeDispatchKeyGuard off(at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const auto type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const OptionalTensor& t) {
    return t.has_value() ? OptionalTensor(at::autocast::cached_cast(type, *t, device)) : t;
  };
  return forward_op().call(method, options, *cast(x), cast(y), cast(weight), cast(bias), params, seed, build);
}

}  // namespace

Tensor call_fused(const BoundMethod& bound, const Input& in, at::TensorList params, Text build) {
  return forward_op()
      .call(bound.name, bound.plan, in.x, optional(in.y), in.y.defined() ? std::nullopt : optional(in.weight),
            in.y.defined() ? std::nullopt : optional(in.bias), params, optional(in.seed), build)
      .front();
}

TORCH_LIBRARY_FRAGMENT(veneer, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def(
      "fused(str method, str options, Tensor x, Tensor? y, Tensor? weight, Tensor? bias, Tensor[] params, "
      "Tensor? seed, str build) -> Tensor[]",
      tags);
  m.def(
      "fused_backward(str method, str options, Tensor dy, Tensor x, Tensor? weight, Tensor? bias, Tensor[] params, "
      "Tensor[] kept, Tensor? seed, bool residual, bool wants_x, str build) -> Tensor[]",
      tags);
}
TORCH_LIBRARY_IMPL(veneer, CPU, m) { m.impl("fused", forward), m.impl("fused_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, CUDA, m) { m.impl("fused", forward), m.impl("fused_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, Meta, m) { m.impl("fused", forward), m.impl("fused_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, Autograd, m) { m.impl("fused", autograd); }
TORCH_LIBRARY_IMPL(veneer, AutocastCPU, m) { m.impl("fused", autocast<at::kCPU>); }
TORCH_LIBRARY_IMPL(veneer, AutocastCUDA, m) { m.impl("fused", autocast<at::kCUDA>); }

}  // namespace veneer
