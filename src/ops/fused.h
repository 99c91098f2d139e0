// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A method's fused path as one op with its own gradient.
#pragma once

#include "veneer/method.h"
#include "veneer/registry.h"

namespace veneer {

// Whether a call may take the fused path; if not it goes through Method::forward, which autograd differentiates: where
// the method has no fused path or VENEER_COMPOSED=1 forbids it, the base's weight is trained, the device is another, x
// and the base have different dtypes, or a transform of torch.func or a forward-mode gradient has to see each
// operation.
bool takes_fused(const Method& method, const Input& in, at::TensorList params);

// The output [*, d_out] through veneer::fused.
at::Tensor call_fused(const BoundMethod& bound, const Input& in, at::TensorList params, const std::string& build);

}  // namespace veneer
