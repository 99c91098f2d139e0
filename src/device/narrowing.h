// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace veneer::device {

// Whether the two are float32 numbers on a GPU to be rounded to 16 bits.
bool takes_narrowing(const at::Tensor& a, const at::Tensor& b, at::ScalarType type);
// Both in that type, contiguous, by one launch (kernels/cuda/narrowing.h).
std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor& a, const at::Tensor& b, at::ScalarType type);

}  // namespace veneer::device
