// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// The sum of x[i] * y[i], in float32 and many sums beside one another.
float dot(const float* x, const float* y, int64_t n);

}  // namespace veneer::kernels::cpu
