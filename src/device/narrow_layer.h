// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A narrow layer on a GPU, each way in one pass over the rows, and then the sums (kernels/cuda/narrow_layer.h). Without
// gradients.
#pragma once

#include "core/narrow_layer.h"

namespace veneer::device {

// Whether there are kernels for x [N, d_in] between matrices with m inner numbers and d_out outputs: on a GPU of
// compute capability 9.0, for contiguous 16-bit matrices with sizes that are multiples of 8, m at most 64, and many
// rows.
bool takes_narrow(const at::Tensor& x, int64_t m, int64_t d_out);

// As NarrowLayer's own, for x without dropout; the gradients of what is added up in float32 may stay so.
NarrowLayer::Output narrow_forward(const NarrowLayer& layer, const at::Tensor& x, const at::Tensor& base);
NarrowLayer::Gradients narrow_backward(const NarrowLayer& layer, const at::Tensor& dy, const at::Tensor& x,
                                       const at::Tensor& z, const at::Tensor& residual, bool wants_x);

}  // namespace veneer::device
