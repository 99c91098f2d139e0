// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A dropout mask as a GPU's kernels take it.
#pragma once

#include "core/dropped.h"
#include "device/launch.h"
#include "veneer/dropout.h"

#if VENEER_WITH_CUDA
#include "kernels/cuda/thin_products.h"

namespace veneer::device {

inline cuda::Mask mask_of(const Dropped& x) {
  if (!x.seed.defined()) return {};
  return {x.seed.const_data_ptr<int64_t>(), dropout_threshold(x.p)};
}

// What the numbers that are kept are divided by.
inline double kept_scale(const Dropped& x) { return x.seed.defined() ? dropout_scale(x.p) : 1.0; }

}  // namespace veneer::device
#endif
