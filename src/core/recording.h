// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Autograd inside an op that has its own gradient, where the dispatcher leaves autograd out.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <vector>

namespace veneer {

// While alive, lazily conjugated and negated tensors are read as what they stand for. The first call of a compiled
// graph comes with those dispatch keys excluded, and complex products would silently be wrong.
class PlainKeys {
 public:
  PlainKeys();

 private:
  c10::impl::ForceDispatchKeyGuard keys_;
};

// While alive, operations of this thread (and of parallel regions it opens) are recorded, without autocast.
class Recording {
 public:
  Recording();

 private:
  at::AutoGradMode record_;
  c10::impl::ForceDispatchKeyGuard keys_;
};

// What the gradients `upstream` of `outputs` give for those `inputs` that require one; undefined for the others, and
// where no output depends on the input. Outputs that do not require a gradient, or whose own is undefined, are left
// out.
std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& inputs,
                                     const std::vector<at::Tensor>& upstream);

}  // namespace veneer
