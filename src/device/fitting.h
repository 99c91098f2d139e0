// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two small matrices made ready for a product by one launch (kernels/cuda/fitting.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace veneer::device {

// Whether the two are float32 numbers on a GPU to be rounded to 16 bits.
bool takes_narrowing(const at::Tensor& a, const at::Tensor& b, at::ScalarType type);
// Both in that type, contiguous.
std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor& a, const at::Tensor& b, at::ScalarType type);

// h [N, r] and p, [d, r] or [r, d], of 16-bit numbers on a GPU, both with zeros up to that rank, a multiple of eight.
std::pair<at::Tensor, at::Tensor> padded(const at::Tensor& h, const at::Tensor& p, bool p_turned, int64_t rank);

}  // namespace veneer::device
