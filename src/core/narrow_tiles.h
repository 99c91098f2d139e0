// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A narrow layer's loops over tiles of rows on a CPU (core/narrow_layer.h). For rows that core/thin.h takes; sums are
// float32, and the same for any number of threads.
#pragma once

#include "core/narrow_layer.h"

namespace veneer::cpu {

NarrowLayer::Output narrow_forward(const NarrowLayer& layer, const Dropped& x, const at::Tensor& base);
NarrowLayer::Gradients narrow_backward(const NarrowLayer& layer, const at::Tensor& dy, const Dropped& x,
                                       const at::Tensor& z, const at::Tensor& residual, bool wants_x);

}  // namespace veneer::cpu
