// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What kernels for compute capability 9.0a share: slabs of 64 x 64 numbers of 16 bits, in rows of 128 bytes with the
// 128-byte swizzle, which the tensor engine copies between a matrix and shared memory. `slab`: rows of a worker's part;
// also depth of a tile and columns of a store.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/seeded_dropout.h"  // Bf16, Fp16

namespace veneer::kernels::cuda {

constexpr int slab = 64;
constexpr int row_bytes = slab * 2;
constexpr int slab_bytes = slab * row_bytes;
constexpr int alignment = 1024;  // of what the 128-byte swizzle is in
constexpr int shared_limit = 232448;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// A place in the ring, and how often it was passed, modulo 2.
template <int stages>
struct Place {
  int stage = 0;
  uint32_t round = 0;
  __device__ void next() {
    if (++stage == stages) {
      stage = 0;
      round ^= 1;
    }
  }
};

template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
}

template <class T>
__device__ __forceinline__ float2 unpack(uint32_t pair) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
  } else {
    return __half22float2(reinterpret_cast<const __half2&>(pair));
  }
}

// Waits for all products; none of the sums is read before.
template <int count>
__device__ __forceinline__ void settle(float (&sum)[count]) {
  hopper::product_wait<0>();
  read_below(sum);
}

// Two blocks of eight columns, from `eight` on, of the sixteen rows of a warp, into a slab: `to` is where row lane % 16
// begins there; `blocks` are of the upper and lower eight rows, then of the next columns (hopper::store_matrices).
__device__ __forceinline__ void store_columns(uint32_t to, int eight, int lane, const uint32_t (&blocks)[4]) {
  const int chunk = (eight + lane / 16) ^ (lane % 8);  // the 128-byte swizzle: of 16 bytes, by the row modulo 8
  hopper::store_matrices(to + chunk * 16, blocks[0], blocks[1], blocks[2], blocks[3]);
}
#endif

using Encode = decltype(&cuTensorMapEncodeTiled);

// By the runtime, so that nothing links to the driver.
inline Encode encoder() {
  static const Encode found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  return found;
}

// A matrix [outer, inner], contiguous, taken in boxes of `high` rows of 64.
template <class T>
bool encode(CUtensorMap* map, const T* data, int64_t outer, int64_t inner, int high) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(inner), static_cast<cuuint64_t>(outer)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(inner) * sizeof(T)};
  const cuuint32_t box[] = {slab, static_cast<cuuint32_t>(high)};
  const cuuint32_t steps[] = {1, 1};
  constexpr auto type = std::is_same_v<T, Bf16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return encoder()(map, type, 2, const_cast<T*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Whether a kernel is built for 90a, for the current device: the body that others have needs fewer registers.
template <class Kernel>
bool has_body(Kernel* kernel, int fewest_registers) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.numRegs >= fewest_registers;
  cudaGetLastError();  // whoever launches next would take it for their own
  return false;
}

inline int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

}  // namespace veneer::kernels::cuda
