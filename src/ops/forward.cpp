// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The generic ops that carry every method through the dispatcher. Composite: a method made of ATen calls gets
// gradients, autocast and tracing from them. `build` is not read: it is an argument so that a compile cache, which keys
// on op and arguments, never serves a rebuilt library the graphs of the old one.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <nlohmann/json.hpp>

#include "core/json.h"
#include "ops/arguments.h"
#include "ops/fused.h"
#include "ops/takes.h"
#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

using at::Tensor;

// Kernels are given addresses: they would read those of another device, and past the end of what is too small.
void check_device(const std::string& method, const std::string& name, const Tensor& tensor, const Tensor& like) {
  VENEER_CHECK(tensor.device() == like.device(), method, "expected all tensors on one device, got ", name, " on ",
               tensor.device(), " and an input on ", like.device());
}

void check_sizes(const std::string& method, const std::string& name, const Tensor& tensor, at::IntArrayRef sizes) {
  const auto dims = static_cast<size_t>(tensor.dim());
  bool same = dims == sizes.size();
  for (size_t i = 0; same && i < dims; ++i) same = tensor.sym_size(static_cast<int64_t>(i)) == sizes[i];
  VENEER_CHECK(same, method, "expected ", name, " of sizes ", sizes, ", got ", tensor.sym_sizes());
}

void check_output(const BoundMethod& bound, const std::string& method, const Tensor& y, const Tensor& x) {
  bool same = y.dim() == x.dim() && y.sym_size(-1) == bound.d_out;
  for (int64_t i = 0; same && i + 1 < x.dim(); ++i) same = y.sym_size(i) == x.sym_size(i);
  VENEER_CHECK(same, method, "expected the base's output of the input's sizes but for the last, which is ", bound.d_out,
               ", got ", y.sym_sizes(), " for an input of sizes ", x.sym_sizes());
}

Params checked_params(const BoundMethod& bound, const std::string& method, at::TensorList params, const Tensor& like) {
  VENEER_CHECK(params.size() == bound.specs.size(), method, "expected ", bound.specs.size(), " parameters, got ",
               params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const ParameterSpec& spec = bound.specs[i];
    check_device(method, spec.name, params[i], like);
    if (i < bound.own) check_sizes(method, spec.name, params[i], spec.shape);  // a plan does not have shared ones'
  }
  return {bound.specs, params};
}

void check_input(const BoundMethod& bound, const std::string& method, const Tensor& x) {
  VENEER_CHECK(x.dim() >= 1, method, "expected an input [*, d_in], got a scalar");
  VENEER_CHECK(x.is_floating_point(), method, "expected a floating-point input, got ", x.scalar_type());
  VENEER_CHECK(x.sym_size(-1) == bound.d_in, method, "expected an input [*, ", bound.d_in, "], got ", x.sym_sizes());
}

Tensor forward(const std::string& method, const std::string& options, const Tensor& x, const OptionalTensor& y,
               const OptionalTensor& weight, const OptionalTensor& bias, at::TensorList params,
               const OptionalTensor& seed, const std::string& build) {
  const auto bound = from_plan(method, options);
  check_input(*bound, method, x);
  VENEER_CHECK(y.has_value() || weight.has_value(), method, "expected the base's output or its weight, got neither");
  VENEER_CHECK(weight.has_value() || !bound->method->needs_weight(), method, "needs the base's weight, got none");
  const auto check = [&](const OptionalTensor& tensor, const char* name, at::IntArrayRef sizes) {
    if (!tensor.has_value()) return;
    check_device(method, name, *tensor, x);
    check_sizes(method, name, *tensor, sizes);
  };
  check(weight, "the base's weight", {bound->d_out, bound->d_in});
  check(bias, "the base's bias", {bound->d_out});
  check(seed, "the seed", {1});
  if (y.has_value()) {
    check_device(method, "the base's output", *y, x);
    check_output(*bound, method, *y, x);
  }
  const Input in{x, tensor(y), tensor(weight), tensor(bias), tensor(seed)};
  const Params checked = checked_params(*bound, method, params, x);
  return takes_fused(*bound->method, in, params) ? call_fused(*bound, in, params, build)
                                                 : bound->method->forward(in, checked);
}

Tensor forward_input(const std::string& method, const std::string& options, const Tensor& x, at::TensorList params,
                     const std::string& /*build*/) {
  const auto bound = from_plan(method, options);
  check_input(*bound, method, x);
  return bound->method->input(x, checked_params(*bound, method, params, x));
}

Tensor merged_weight(const std::string& method, const std::string& options, const Tensor& weight, at::TensorList params,
                     const std::string& /*build*/) {
  const auto bound = from_plan(method, options);
  VENEER_CHECK(bound->method->mergeable(), method, "cannot be merged: ", bound->method->merge_refusal());
  check_sizes(method, "the base's weight", weight, {bound->d_out, bound->d_in});
  return bound->method->weight(weight, checked_params(*bound, method, params, weight));
}

Tensor merged_bias(const std::string& method, const std::string& options, const Tensor& bias, at::TensorList params,
                   const std::string& /*build*/) {
  const auto bound = from_plan(method, options);
  check_sizes(method, "the base's bias", bias, {bound->d_out});
  return bound->method->bias(bias, checked_params(*bound, method, params, bias));
}

std::vector<Tensor> op_initial_parameters(const std::string& method, const std::string& options,
                                          const OptionalTensor& weight, at::TensorList shared, at::ScalarType dtype,
                                          at::Device device, const std::string& /*build*/) {
  return initial_parameters(*from_plan(method, options), weight.value_or(Tensor()), at::device(device).dtype(dtype),
                            shared.vec());
}

std::vector<Tensor> op_initial_shared(const std::string& specs, at::ScalarType dtype, at::Device device) {
  return initial_tensors(specs_from_json(nlohmann::json::parse(specs)), at::device(device).dtype(dtype));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(veneer, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def(
      "forward(str method, str options, Tensor x, Tensor? y, Tensor? weight, Tensor? bias, Tensor[] params, Tensor? "
      "seed, "
      "str build) -> Tensor",
      forward, tags);
  m.def("forward_input(str method, str options, Tensor x, Tensor[] params, str build) -> Tensor", forward_input, tags);
  m.def("merged_weight(str method, str options, Tensor weight, Tensor[] params, str build) -> Tensor", merged_weight,
        tags);
  m.def("merged_bias(str method, str options, Tensor bias, Tensor[] params, str build) -> Tensor", merged_bias, tags);
  m.def(
      "initial_parameters(str method, str options, Tensor? weight, Tensor[] shared, ScalarType dtype, Device device, "
      "str build) -> Tensor[]",
      op_initial_parameters);
  m.def("initial_shared(str specs, ScalarType dtype, Device device) -> Tensor[]", op_initial_shared);
}

}  // namespace veneer
