// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The kernels' number types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/seeded_dropout.h"

namespace veneer::kernels::cuda {

__device__ inline float wide(float value) { return value; }
__device__ inline double wide(double value) { return value; }
__device__ inline float wide(Bf16 value) { return __bfloat162float(__ushort_as_bfloat16(value.bits)); }
__device__ inline float wide(Fp16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <class T, class Wide>
__device__ T narrow(Wide value) {
  if constexpr (sizeof(T) == sizeof(Wide)) {
    return value;
  } else if constexpr (std::is_same_v<T, Bf16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return {__half_as_ushort(__float2half_rn(value))};
  }
}

// 16 bytes of numbers, loaded and stored at once.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

template <class T>
__device__ Pack<T> load(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <class T>
__device__ void store(T* p, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(p) = pack;
}

// Two neighbours in one register, the lower in the lower half.
template <class T>
__device__ uint32_t pair(float low, float high) {
  return static_cast<uint32_t>(narrow<T>(low).bits) | static_cast<uint32_t>(narrow<T>(high).bits) << 16;
}

}  // namespace veneer::kernels::cuda
