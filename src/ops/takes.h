// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Which calls may go through an op with a gradient of its own.
#pragma once

#include "veneer/method.h"

namespace veneer {

// Whether such an op may see x and the parameters: not where VENEER_COMPOSED=1 forbids it, on another device, or where
// a transform of torch.func or a forward-mode gradient has to see each operation.
bool takes_op(const at::Tensor& x, at::TensorList params);

// Whether autograd would record a gradient of t, which may be undefined.
bool requires_gradient(const at::Tensor& t);

// Whether autocast is on for x's device.
bool under_autocast(const at::Tensor& x);

// Whether a call may take a method's fused path; if not it goes through Method::forward, which autograd differentiates:
// where `takes_op` says no, the method has no fused path, the base's weight is trained, or x and the base have
// different dtypes.
bool takes_fused(const Method& method, const Input& in, at::TensorList params);

}  // namespace veneer
