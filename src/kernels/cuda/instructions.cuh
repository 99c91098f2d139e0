// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The instructions that C++ has no name for, one function each: those of compute capability 8.0, and the wait of 9.0
// for what ran before. hopper.h has those of 9.0a. No other file has assembly, so that tests/cuda/emulator can be in
// the place of these two.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/seeded_dropout.h"  // Bf16

namespace veneer::kernels::cuda {

// --- Shared memory, whose addresses are 32-bit numbers.

// Declares what the launch asked for, a pointer or array of `type`.
#define VENEER_SHARED(type, name) extern __shared__ __align__(16) type name[]

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ uint32_t load_shared(uint32_t from) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(from) : "memory");
  return value;
}
__device__ __forceinline__ void store_shared(uint32_t to, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

// --- Copies.
__device__ inline void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// 16 bytes from global to shared memory behind the program's back; zeros where not `valid`.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0));
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;"); }
template <int left>
__device__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left));
}

// --- Order.

// So many threads, whole warps of the block. Named barrier 0 is __syncthreads.
__device__ __forceinline__ void group_sync(int name, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(count) : "memory");
}
template <int count>
__device__ __forceinline__ void group_sync(int name) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "n"(count) : "memory");
}

// Begins a kernel that is launched in order (kernels/cuda/launch.cuh): nothing before it may read or write global
// memory. What ran before in the stream is complete after it.
__device__ __forceinline__ void await_order() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;" ::: "memory");
#endif
}

// The values are not read before what stands above: they are results of instructions that run on.
template <int count>
__device__ __forceinline__ void read_below(float (&values)[count]) {
#pragma unroll
  for (float& value : values) asm volatile("" : "+f"(value)::"memory");
}

// --- Matrices of 16-bit numbers.

// Four 8 x 8 blocks, lane i naming a row of block i / 8: rows as they lie, or `turned`: columns as rows.
template <bool turned>
__device__ void load_blocks(uint32_t (&to)[4], uint32_t address) {
  if constexpr (turned) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  }
}
template <bool turned>
__device__ void load_blocks(uint32_t (&to)[4], const void* row) {
  load_blocks<turned>(to, shared_address(row));
}

// sum [16, 8] += a [16, 16] b [16, 8]. Lane l holds, with g = l / 4 and q = 2 (l % 4): of a the pairs (g, q), (g + 8,
// q), (g, q + 8), (g + 8, q + 8); of b the pairs down column g from rows q and q + 8; of the sum the pairs (g, q), (g +
// 8, q).
template <class T>
__device__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, Bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace veneer::kernels::cuda
