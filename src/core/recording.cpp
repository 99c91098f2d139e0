// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/recording.h"

#include <c10/core/DispatchKeySet.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

namespace veneer {
namespace {

c10::impl::LocalDispatchKeySet recording_keys() {
  auto keys = c10::impl::tls_local_dispatch_key_set();
  keys.excluded_ =
      (keys.excluded_ - c10::autograd_dispatch_keyset - c10::autograd_dispatch_keyset_with_ADInplaceOrView) |
      c10::autocast_dispatch_keyset;
  return keys;
}

c10::impl::LocalDispatchKeySet plain_keys() {
  auto keys = c10::impl::tls_local_dispatch_key_set();
  keys.excluded_ = keys.excluded_ - c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
  return keys;
}

// Where the outputs are inputs themselves (two factors as they are trained), which would be a pass of the engine for
// nothing: sets their gradients. False, and nothing is done, where one of them is not.
bool given_directly(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                    const std::vector<at::Tensor>& upstream, std::vector<at::Tensor>& gradients) {
  std::vector<size_t> places;
  for (const auto& output : outputs) {
    const auto same = [&](const at::Tensor& input) { return input.is_same(output); };
    places.push_back(static_cast<size_t>(std::find_if(inputs.begin(), inputs.end(), same) - inputs.begin()));
    if (places.back() == inputs.size()) return false;
  }
  for (size_t i = 0; i < places.size(); ++i) {
    at::Tensor& gradient = gradients[places[i]];
    gradient = gradient.defined() ? gradient.add(upstream[i]) : upstream[i];
  }
  return true;
}

}  // namespace

PlainKeys::PlainKeys() : keys_(plain_keys()) {}
Recording::Recording() : record_(true), keys_(recording_keys()) {}

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                     const std::vector<at::Tensor>& upstream) {
  torch::autograd::variable_list from, wanted, given;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad() || !upstream[i].defined()) continue;
    from.push_back(outputs[i]);
    given.push_back(upstream[i]);
  }
  std::vector<size_t> places;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    wanted.push_back(inputs[i]);
    places.push_back(i);
  }
  std::vector<at::Tensor> gradients(inputs.size());
  if (from.empty() || wanted.empty() || given_directly(from, inputs, given, gradients)) return gradients;
  const auto found = torch::autograd::grad(from, wanted, given, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                           /*allow_unused=*/true);
  for (size_t i = 0; i < places.size(); ++i) gradients[places[i]] = found[i];
  return gradients;
}

}  // namespace veneer
