// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Rows [n, d] whose columns are scaled, in one pass.
#pragma once

#include <cstdint>

namespace veneer::kernels::cpu {

// out = y * g + shift; shift [d] may be null. out may be y.
void scale_columns(const float* y, const float* g, const float* shift, float* out, int64_t n, int64_t d);

// sums [d] += the sums over rows of dy * (y - bias); bias may be null.
void sum_columns(const float* dy, const float* y, const float* bias, float* sums, int64_t n, int64_t d);

}  // namespace veneer::kernels::cpu
