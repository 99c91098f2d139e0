// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace veneer::kernels::cuda {

// As kernels::cpu::diagonal_sums, on `stream` (a cudaStream_t). T: float, double. Returns a cudaError_t, 0 on success.
template <class T>
int diagonal_sums(T* m, int64_t rows, int64_t columns, void* stream);

}  // namespace veneer::kernels::cuda
