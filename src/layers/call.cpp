// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "layers/call.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include "ops/arguments.h"

namespace veneer {
namespace {

using at::Tensor;
}  // namespace

Tensor call_forward(const BoundMethod& bound, const Input& in, at::TensorList params) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("veneer::forward", "")
                             .typed<Tensor(Text, Text, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                           const OptionalTensor&, at::TensorList, const OptionalTensor&, Text)>();
  return op.call(bound.name, bound.plan, in.x, optional(in.y), optional(in.weight), optional(in.bias), params,
                 optional(in.seed), call_id());
}

Tensor call_input(const BoundMethod& bound, const Tensor& x, at::TensorList params) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("veneer::forward_input", "")
                             .typed<Tensor(Text, Text, const Tensor&, at::TensorList, Text)>();
  return op.call(bound.name, bound.plan, x, params, call_id());
}

}  // namespace veneer
