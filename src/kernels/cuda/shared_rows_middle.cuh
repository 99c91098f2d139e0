// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Between the two products of shared_rows_kernel.cuh: sums to inner numbers.
#pragma once

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/narrow_inner.cuh"
#include "kernels/cuda/shared_rows.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {
namespace shared_rows {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Adds up the sums of this block's rows of each tile.
template <class T, bool forward, int cluster>
__device__ __forceinline__ void run_middle(const Memory<forward>& memory, const Small<T>& call, int tiles, int rank) {
  using namespace hopper;
  constexpr int warps = Plan<forward>::middle_warps, own_rows = tile_rows / cluster;
  constexpr int turns = own_rows / warps;       // a warp has one row at a time
  constexpr int at_once = forward ? turns : 1;  // for which there are registers
  static_assert(own_rows % warps == 0);
  const int thread = threadIdx.x % 128, pair = threadIdx.x % 32, warp = thread / 32;
  // Of the sums of 2 pair; those of 2 pair + 1 are beside them.
  const int eight = pair / 4;
  const uint32_t own = (eight / 2 * 8 + ((pair % 4 * 2) ^ (eight / 2 % 2))) * 16 + eight % 2 * 8;
  float2 total = {};
  for (Turn<forward, cluster> turn; turn.tile < tiles; turn.next()) {
    const int buffer = turn.buffer.stage;
    if (thread == 0) barrier_expect(memory.sums_full(buffer), sums_bytes);
    if constexpr (!forward) barrier_wait(memory.full(turn.place.stage), turn.place.round);
    barrier_wait(memory.sums_full(buffer), turn.buffer.round);
#pragma unroll 1
    for (int first_turn = 0; first_turn < turns; first_turn += at_once) {
      uint32_t z[at_once] = {};
      float2 sum[at_once] = {};
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int own_row = (first_turn + i) * warps + warp;
        if constexpr (!forward) {
          z[i] = load_shared(memory.z(turn.place.stage) + in_slab(rank * own_rows + own_row, pair));
        }
        const uint32_t at = memory.sums(buffer) + own_row / 2 * two_rows_bytes + own_row % 2 * 4 + own;
#pragma unroll
        for (int block = 0; block < cluster; ++block) {
          const uint32_t from = at + block * (sums_bytes / cluster);
          sum[i].x += __uint_as_float(load_shared(from));
          sum[i].y += __uint_as_float(load_shared(from ^ 16));
        }
      }
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int row = rank * own_rows + (first_turn + i) * warps + warp;
        const float2 result = finish_pair<T, forward>(call, turn.tile * tile_rows + row, pair, sum[i], z[i]);
        total = {total.x + result.x, total.y + result.y};
        // Four lanes have eight neighbours together; each sends them to other blocks.
        uint32_t all[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) all[j] = __shfl_sync(~0U, pack<T>(result.x, result.y), j, 4);
        const uint32_t at = row * row_bytes + ((pair / 4) ^ (row % 8)) * 16;
#pragma unroll
        for (int j = 0; j < (cluster + 3) / 4; ++j) {
          const int block = 4 * j + pair % 4;
          if (block < cluster) {
            const Memory<forward> there{address_in(memory.base, block)};
            send(there.inner(buffer) + at, there.inner_full(buffer), all[0], all[1], all[2], all[3]);
          }
        }
      }
    }
  }

  if constexpr (!forward) {
    if (call.dz_parts != nullptr) {
      const uint32_t room = memory.sums(0);
      group_sync<warps * 32>(1);  // all have read what came there last
      store_shared(room + warp * slab * 4 + pair * 8, __float_as_uint(total.x));
      store_shared(room + warp * slab * 4 + pair * 8 + 4, __float_as_uint(total.y));
      group_sync<warps * 32>(1);
      if (thread < call.m) {
        float of_block = 0;
#pragma unroll
        for (int i = 0; i < warps; ++i) of_block += __uint_as_float(load_shared(room + i * slab * 4 + thread * 4));
        call.dz_parts[static_cast<int64_t>(blockIdx.x) * call.m + thread] = of_block;
      }
    }
  }
}
#endif

}  // namespace shared_rows
}  // namespace
}  // namespace veneer::kernels::cuda
