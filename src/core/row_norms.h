// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The norms of a weight's rows with a low-rank update, on a CPU: tile after tile of the weight comes into the cache,
// and is read once. Without gradients. On a GPU: device/thin.h.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer::cpu {

// Whether weight [d_out, d_in] with factors a [r, d_in] and b [d_out, r] is taken: contiguous numbers of 16 or 32 bits
// in the memory of a CPU, and a small rank.
bool takes_row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b);
// The norms [d_out] of the rows of weight + scale * b a, in float32.
at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale);

}  // namespace veneer::cpu
