// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The instructions of compute capability 9.0a that C++ has no name for, one function each. Addresses of shared memory
// are 32-bit numbers, as the instructions take them.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/instructions.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace veneer::kernels::cuda::hopper {

// --- Barriers. A phase ends with the expected arrivals and bytes; waiting for the phase before the first returns at
// once.
__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// One arrival, and so many bytes to come.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// One arrival at the barrier with this address in a block of the cluster. Without a scope: `.release.cluster` would
// cost a fence of the whole GPU, and orders nothing that tensor cores and copy engine do.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// All threads of the cluster; a warp's need not come together.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

__device__ __forceinline__ void warpgroup_sync(int name) { group_sync<128>(name); }

// --- Copies by the tensor engine, of one box at (x, y) = (innermost, row).
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

__device__ __forceinline__ void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

// To the same place, and announced at the same barrier, in each block of the mask.
__device__ __forceinline__ void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int x, int y,
                                         uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(x), "r"(y), "h"(blocks)
      : "memory");
}

// Stores are groups of the thread that issues them.
__device__ __forceinline__ void store_box(const CUtensorMap& map, uint32_t from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(from),
               "r"(x), "r"(y)
               : "memory");
}

__device__ __forceinline__ void store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// What all but the last `pending` groups store has been read: that shared memory may be written again.
template <int pending>
__device__ __forceinline__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// Between ordinary writes to shared memory and the copy engine's or the tensor cores' reads.
__device__ __forceinline__ void async_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- Registers. The whole warpgroup.
template <int count>
__device__ __forceinline__ void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count>
__device__ __forceinline__ void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

// Four 8x8 matrices of 16-bit numbers; lane 8i+j has the address of row j of matrix i.
__device__ __forceinline__ void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// --- Matrix products of a warpgroup.

// A matrix in shared memory, in rows of 128 bytes with the 128-byte swizzle. `leading`, bytes: from 64 numbers of a row
// to the next 64, where the rows run along the product's columns (where they run along its depth it is not read).
__device__ __forceinline__ uint64_t matrix_descriptor(uint32_t address, uint32_t leading) {
  constexpr uint64_t eight_rows = 1024, swizzle_128 = 1;
  return ((address & 0x3FFFF) >> 4) | (uint64_t{leading >> 4} << 16) | ((eight_rows >> 4) << 32) | (swizzle_128 << 62);
}

__device__ __forceinline__ void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// At most `pending` groups are still running.
template <int pending>
__device__ __forceinline__ void product_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

#define VENEER_TEN(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define VENEER_30 VENEER_TEN() VENEER_TEN(1) VENEER_TEN(2)
#define VENEER_60 VENEER_TEN() VENEER_TEN(1) VENEER_TEN(2) VENEER_TEN(3) VENEER_TEN(4) VENEER_TEN(5)
#define VENEER_90 VENEER_60 VENEER_TEN(6) VENEER_TEN(7) VENEER_TEN(8)
#define VENEER_120 VENEER_90 VENEER_TEN(9) VENEER_TEN(10) VENEER_TEN(11)
#define VENEER_SUM8(i)                                                                                        \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define VENEER_SUM32(i) VENEER_SUM8(i), VENEER_SUM8(i + 8), VENEER_SUM8(i + 16), VENEER_SUM8(i + 24)
// r: the registers' names; a, b, s, t: those of the operands after them.
#define VENEER_PRODUCT(n, type, r, a, b, s, t, ...)                                                                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " s                                                                   \
               ", 0;\n"                                                                                                \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" r "}, " a ", " b ", p, 1, 1, 0, " t \
               ";\n}"                                                                                                  \
               : __VA_ARGS__                                                                                           \
               : "l"(left), "l"(right), "r"(add), "n"(rows_along_columns))
#define VENEER_PRODUCTS(type)                                                                                          \
  if constexpr (columns == 64) {                                                                                       \
    VENEER_PRODUCT("64", type, VENEER_30 "%30, %31", "%32", "%33", "%34", "%35", VENEER_SUM32(0));                     \
  } else if constexpr (columns == 128) {                                                                               \
    VENEER_PRODUCT("128", type, VENEER_60 "%60, %61, %62, %63", "%64", "%65", "%66", "%67", VENEER_SUM32(0),           \
                   VENEER_SUM32(32));                                                                                  \
  } else if constexpr (columns == 192) {                                                                               \
    VENEER_PRODUCT("192", type, VENEER_90 "%90, %91, %92, %93, %94, %95", "%96", "%97", "%98", "%99", VENEER_SUM32(0), \
                   VENEER_SUM32(32), VENEER_SUM32(64));                                                                \
  } else {                                                                                                             \
    VENEER_PRODUCT("256", type, VENEER_120 "%120, %121, %122, %123, %124, %125, %126, %127", "%128", "%129", "%130",   \
                   "%131", VENEER_SUM32(0), VENEER_SUM32(32), VENEER_SUM32(64), VENEER_SUM32(96));                     \
  }

// d [64, columns] = left [64, 16] right [16, columns], added to d if `add`. Only starts it: d is not touched until the
// wait. In thread 32w + l, d[4j] and d[4j + 1] are of row 16w + l/4 and columns 8j + 2(l mod 4) and one more, d[4j + 2]
// and d[4j + 3] those eight rows below.
template <bool bf16, int columns, bool rows_along_columns>
__device__ __forceinline__ void product(float (&d)[columns / 2], uint64_t left, uint64_t right, int add) {
  static_assert(columns == 64 || columns == 128 || columns == 192 || columns == 256);
  if constexpr (bf16) {
    VENEER_PRODUCTS("bf16")
  } else {
    VENEER_PRODUCTS("f16")
  }
}

// As `product` with 128 columns and the rows of the right side along them; the left side from registers, as below.
#define VENEER_LEFT_PRODUCT(type)                                                 \
  asm volatile(                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" VENEER_60 \
      "%60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"            \
      : VENEER_SUM32(0), VENEER_SUM32(32)                                         \
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(add))
template <bool bf16>
__device__ __forceinline__ void product(float (&d)[64], const uint32_t (&left)[4], uint64_t right, int add) {
  if constexpr (bf16) {
    VENEER_LEFT_PRODUCT("bf16");
  } else {
    VENEER_LEFT_PRODUCT("f16");
  }
}

#undef VENEER_LEFT_PRODUCT

// The same with the left side from shared memory, its rows along the product's depth: 64 numbers of each are a column.
#define VENEER_TURNED_PRODUCT(type)                                               \
  asm volatile(                                                                   \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" VENEER_60 \
      "%60, %61, %62, %63}, %64, %65, p, 1, 1, 1, 1;\n}"                          \
      : VENEER_SUM32(0), VENEER_SUM32(32)                                         \
      : "l"(left), "l"(right), "r"(add))
template <bool bf16>
__device__ __forceinline__ void product_of_turned(float (&d)[64], uint64_t left, uint64_t right, int add) {
  if constexpr (bf16) {
    VENEER_TURNED_PRODUCT("bf16");
  } else {
    VENEER_TURNED_PRODUCT("f16");
  }
}

#undef VENEER_TURNED_PRODUCT
#undef VENEER_PRODUCTS
#undef VENEER_PRODUCT
#undef VENEER_SUM32
#undef VENEER_SUM8
#undef VENEER_120
#undef VENEER_90
#undef VENEER_60
#undef VENEER_30
#undef VENEER_TEN

// As `product` with 32 columns, the left side from registers: lane l of warp w has the pairs at (16w + g, q), (16w + g
// + 8, q), (16w + g, q + 8) and (16w + g + 8, q + 8), with g = l / 4 and q = 2 (l mod 4). Right has rows along its
// depth.
#define VENEER_PRODUCT(type)                                                                                        \
  asm volatile(                                                                                                     \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                                                  \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                                   \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19},"              \
      " %20, p, 1, 1, 0;\n}"                                                                                        \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])                    \
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(add))
template <bool bf16>
__device__ __forceinline__ void product(float (&d)[16], const uint32_t (&left)[4], uint64_t right, int add) {
  if constexpr (bf16) {
    VENEER_PRODUCT("bf16");
  } else {
    VENEER_PRODUCT("f16");
  }
}
#undef VENEER_PRODUCT

// The same with the left side from shared memory, its rows along the product's depth: 64 numbers of each are a column.
#define VENEER_PRODUCT(type)                                                                                        \
  asm volatile(                                                                                                     \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"                                                                  \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                                                   \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 1, 0;\n}"        \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), \
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])                    \
      : "l"(left), "l"(right), "r"(add))
template <bool bf16>
__device__ __forceinline__ void product_of_turned(float (&d)[16], uint64_t left, uint64_t right, int add) {
  if constexpr (bf16) {
    VENEER_PRODUCT("bf16");
  } else {
    VENEER_PRODUCT("f16");
  }
}
#undef VENEER_PRODUCT

// --- Blocks of a cluster.

// Where an address of this block's shared memory is in that of another.
__device__ __forceinline__ uint32_t address_in(uint32_t address, uint32_t rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// Sixteen bytes to a block's shared memory, which count at its barrier once they are there.
__device__ __forceinline__ void send(uint32_t to, uint32_t barrier, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%2, %3, %4, %5}, [%1];" ::"r"(to),
               "r"(barrier), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// One arrival at a barrier of this block, after all that this thread has read and written.
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// What load_blocks<true> (kernels/cuda/instructions.cuh) has read, back.
__device__ __forceinline__ void store_turned(uint32_t to, const uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(from[0]),
               "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}

}  // namespace veneer::kernels::cuda::hopper

#endif
