// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A method's fused path as one op with its own gradient.
#pragma once

#include "veneer/method.h"
#include "veneer/registry.h"

namespace veneer {

// Whether an op with a gradient of its own may see x and the parameters: not where VENEER_COMPOSED=1 forbids it, on
// another device, or where a transform of torch.func or a forward-mode gradient has to see each operation.
bool takes_op(const at::Tensor& x, at::TensorList params);

// Whether a call may take the fused path; if not it goes through Method::forward, which autograd differentiates: where
// `takes_op` says no, the method has no fused path, the base's weight is trained, or x and the base have different
// dtypes.
bool takes_fused(const Method& method, const Input& in, at::TensorList params);

// The output [*, d_out] through veneer::fused.
at::Tensor call_fused(const BoundMethod& bound, const Input& in, at::TensorList params, const std::string& build);

}  // namespace veneer
