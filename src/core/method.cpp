// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/method.h"

#include "veneer/check.h"

namespace veneer {

at::Tensor Method::weight(const at::Tensor& /*weight*/, const Params& /*params*/) const {
  TORCH_CHECK_VALUE(false, "[veneer] cannot merge: ", merge_refusal());
}

std::vector<at::Tensor> Method::fused_forward(const Input& /*in*/, const Params& /*params*/) const {
  TORCH_INTERNAL_ASSERT(false, "a method without a fused path");
}

std::vector<at::Tensor> Method::fused_backward(const at::Tensor& /*dy*/, const Input& /*in*/, const Params& /*params*/,
                                               const std::vector<at::Tensor>& /*kept*/, bool /*wants_x*/) const {
  TORCH_INTERNAL_ASSERT(false, "a method without a fused path");
}

}  // namespace veneer
