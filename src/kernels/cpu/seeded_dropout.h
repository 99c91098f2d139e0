// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cpu {

// Elements [begin, end) of the call; any partition gives the same result. T: float, double, Bf16, Fp16.
template <class T>
void seeded_dropout(const SeededDropout<T>& call, int64_t begin, int64_t end);

}  // namespace veneer::kernels::cpu
