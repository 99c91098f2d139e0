// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/seeded_dropout.h"

namespace veneer::device {

// Runs the call, whose numbers are x's, if those are on a GPU; whether they are. T: float, double, Bf16, Fp16.
template <class T>
bool seeded_dropout(const kernels::SeededDropout<T>& call, const at::Tensor& x);

}  // namespace veneer::device
