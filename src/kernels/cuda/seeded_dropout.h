// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {

// Launches on `stream` (a cudaStream_t). T: float, double, Bf16, Fp16. Returns a cudaError_t, 0 on success.
template <class T>
int seeded_dropout(const SeededDropout<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
