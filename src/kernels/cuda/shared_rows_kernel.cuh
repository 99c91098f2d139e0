// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The product of kernels/cuda/narrow_layer.h where the base is x, which is then read once. A cluster shares tiles of 32
// rows: each block has its slice of the columns, in a ring in shared memory, and of both matrices what belongs to that
// slice, in registers. A tile goes from hand to hand:
//   copies     one thread loads it (`full`),
//   first      multiplies it; the sums of each row go to the block of the cluster that has this row (`sums_full`),
//   middle     adds them up, block by block, and sends the row's inner numbers to all blocks (`inner_full`),
//   up sums    meanwhile, backward, multiplies it with act(z), which lies beside it, and keeps the result (`summed`),
//   second     multiplies the inner numbers and adds the result to the tile where it is (`ready`),
//   down sums  meanwhile, backward, multiplies them with the layer's input,
//   copies     another thread stores it (`empty`).
// Blocks stay and take one tile after another. The buffers of sums and of inner numbers are two or three, and safe by
// this: a block sends sums of a tile once its `second` and `down sums` have multiplied the inner numbers of the tile
// that had the same buffers before (`inner_free`). So whoever has all blocks' sums of a tile may overwrite those inner
// numbers in each of them; and as they had come from all blocks, their `middle` has read the sums, and z, of the
// earlier tile. Left sides of products are the weights, or act(z): inner numbers or columns of y are the rows of what
// is summed, and rows of x its columns, or its depth.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/narrow_inner.cuh"
#include "kernels/cuda/shared_rows.cuh"
#include "kernels/cuda/shared_rows_middle.cuh"
#include "kernels/cuda/shared_rows_sums.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {
namespace shared_rows {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <class T, bool forward, int cluster>
__device__ __forceinline__ void run_first(const Memory<forward>& memory, int tiles, int rank) {
  using namespace hopper;
  constexpr int slabs = Plan<forward>::slabs, own_rows = tile_rows / cluster;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Weight<forward> left(memory, 0);

  // Where this thread's sums of rows 8j + 2 (lane % 4) and one more go: four numbers, of two inner numbers each.
  Memory<forward> owners[tile_rows / 8];
  uint32_t part[tile_rows / 8];
#pragma unroll
  for (int j = 0; j < tile_rows / 8; ++j) {
    const int row = 8 * j + lane % 4 * 2;
    owners[j].base = address_in(memory.base, row / own_rows);
    part[j] = rank * (sums_bytes / cluster) + row % own_rows / 2 * two_rows_bytes +
              (warp * 8 + ((lane / 4) ^ (warp % 2))) * 16;
  }
  for (Turn<forward, cluster> turn; turn.tile < tiles; turn.next()) {
    float sum[tile_rows / 2];
    barrier_wait(memory.full(turn.place.stage), turn.place.round);
    const uint64_t right = matrix_descriptor(memory.stage(turn.place.stage), 16);
    product_fence();
#pragma unroll
    for (int i = 0; i < slabs; ++i) {
#pragma unroll
      for (int step = 0; step < slab / 16; ++step) {
        left.template multiply<T>(sum, i, step, right + i * (tile_slab_bytes / 16) + step * 2, i + step > 0);
      }
    }
    product_commit();
    settle(sum);
    const int buffer = turn.buffer.stage;
    barrier_wait(memory.inner_free(buffer), turn.buffer.round ^ 1);
#pragma unroll
    for (int j = 0; j < tile_rows / 8; ++j) {
      send(owners[j].sums(buffer) + part[j], owners[j].sums_full(buffer), __float_as_uint(sum[4 * j]),
           __float_as_uint(sum[4 * j + 1]), __float_as_uint(sum[4 * j + 2]), __float_as_uint(sum[4 * j + 3]));
    }
  }
}

template <class T, bool forward, int cluster>
__device__ __forceinline__ void run_second(const Memory<forward>& memory, const Small<T>& call, int tiles,
                                           int own_slabs, int rank) {
  using namespace hopper;
  constexpr int slabs = Plan<forward>::slabs;
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32;
  Weight<forward> left(memory, 1);

  // This thread has two columns of each slab, this and that eight further.
  const auto column_of = [&](int i) { return (rank * own_slabs + i) * slab + warp * 16 + lane / 4; };
  uint32_t bias[slabs] = {};
  if (forward && call.bias != nullptr) {
    const auto* const numbers = reinterpret_cast<const uint16_t*>(call.bias);
#pragma unroll
    for (int i = 0; i < slabs; ++i) {
      if (column_of(i) < call.columns) bias[i] = __ldg(numbers + column_of(i));
      if (column_of(i) + 8 < call.columns) bias[i] |= static_cast<uint32_t>(__ldg(numbers + column_of(i) + 8)) << 16;
    }
  }
  const uint32_t own = turned_at();
  float total[slabs][2] = {};  // backward: sums of x over the rows that this thread reads
  float sum[2][tile_rows / 2];
  for (Turn<forward, cluster> turn; turn.tile < tiles; turn.next()) {
    const int stage = turn.place.stage, buffer = turn.buffer.stage;
    if (thread == 0) barrier_expect(memory.inner_full(buffer), inner_bytes);
    barrier_wait(memory.full(stage), turn.place.round);
    if constexpr (!forward) {  // before it has to hurry
#pragma unroll
      for (int i = 0; i < slabs; ++i) {
#pragma unroll
        for (int half = 0; half < tile_rows / 16; ++half) {
          uint32_t matrices[4];
          load_blocks<true>(matrices, memory.stage(stage) + i * tile_slab_bytes + own + half * 16 * row_bytes);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float2 two = unpack<T>(matrices[k]);
            total[i][k % 2] += two.x + two.y;
          }
        }
      }
      barrier_wait(memory.summed(stage), turn.place.round);
    }
    barrier_wait(memory.inner_full(buffer), turn.buffer.round);
    async_fence();
    const uint64_t right = matrix_descriptor(memory.inner(buffer), 16);
    const auto multiply = [&](float(&to)[tile_rows / 2], int i) {
      product_fence();
#pragma unroll
      for (int step = 0; step < slab / 16; ++step) left.template multiply<T>(to, i, step, right + step * 2, step > 0);
      product_commit();
    };
    multiply(sum[0], 0);
#pragma unroll
    for (int i = 0; i < slabs; ++i) {
      const uint32_t at = memory.stage(stage) + i * tile_slab_bytes + own;
      constexpr int halves = tile_rows / 16, at_once = forward ? halves : 1;
      uint32_t matrices[at_once][4];
#pragma unroll
      for (int half = 0; half < at_once; ++half) load_blocks<true>(matrices[half], at + half * 16 * row_bytes);
      if (i + 1 < slabs) {
        multiply(sum[(i + 1) % 2], (i + 1) % slabs);
        product_wait<1>();
      } else {
        product_wait<0>();
        if (lane == 0) barrier_arrive(memory.inner_free(buffer));
      }
      float(&own_sum)[tile_rows / 2] = sum[i % 2];
      read_below(own_sum);
      const float2 shift = unpack<T>(bias[i]);
#pragma unroll
      for (int half = 0; half < halves; ++half) {
        if (half >= at_once) load_blocks<true>(matrices[half % at_once], at + half * 16 * row_bytes);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          uint32_t& two = matrices[half % at_once][k];
          const float* const more = own_sum + 8 * half + 2 * k;
          const float2 under = unpack<T>(two);
          const float shifted = k % 2 == 0 ? shift.x : shift.y;
          two = pack<T>(call.second_scale * more[0] + (under.x + shifted),
                        call.second_scale * more[1] + (under.y + shifted));
        }
        store_turned(at + half * 16 * row_bytes, matrices[half % at_once]);
      }
    }
    async_fence();
    __syncwarp();
    if (lane == 0) barrier_arrive(memory.ready(stage));
  }

  if constexpr (!forward) {
    if (call.dy_parts != nullptr) {
      float* const to = call.dy_parts + static_cast<int64_t>(blockIdx.x / cluster) * call.columns;
#pragma unroll
      for (int i = 0; i < slabs; ++i) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {  // four lanes have the rows of a column
          float all = total[i][k] + __shfl_xor_sync(~0U, total[i][k], 1);
          all += __shfl_xor_sync(~0U, all, 2);
          const int column = column_of(i) + 8 * k;
          if (lane % 4 == 0 && i < own_slabs && column < call.columns) to[column] = all;
        }
      }
    }
  }
}
#endif

template <class T, bool forward, int cluster>
__global__ void __launch_bounds__(Plan<forward>::threads, 1)
    kernel(const __grid_constant__ Maps maps, [[maybe_unused]] const __grid_constant__ Small<T> call,
           [[maybe_unused]] int tiles, [[maybe_unused]] int own_slabs) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using P = Plan<forward>;
  await_order();
  VENEER_SHARED(uint8_t, bytes);
  const Memory<forward> memory{(shared_address(bytes) + alignment - 1) / alignment * alignment};
  const int role = __shfl_sync(~0U, threadIdx.x / 128, 0);  // known to be the same in a warp, so are its descriptors
  const int rank = blockIdx.x % cluster;
  // Of a slab; where it is not one of the block's, outside of all matrices, which is zeros.
  const auto column_of = [&](int i) { return i < own_slabs ? (rank * own_slabs + i) * slab : call.columns; };

  const auto load_tile = [&](const Turn<forward, cluster>& turn) {
    const uint32_t barrier = memory.full(turn.place.stage);
    barrier_expect(barrier, P::stage_bytes);  // what is outside counts
    for (int i = 0; i < P::slabs; ++i) {
      load_box(memory.stage(turn.place.stage) + i * tile_slab_bytes, maps.x, barrier, column_of(i),
               turn.tile * tile_rows);
    }
    if constexpr (!forward) load_box(memory.z(turn.place.stage), maps.z, barrier, 0, turn.tile * tile_rows);
  };
  const auto load_weight = [&](const CUtensorMap& map, int which, bool columns_inside) {
    barrier_expect(memory.weight_full(which), P::weight_bytes);
    for (int i = 0; i < P::slabs; ++i) {
      load_box(memory.weight(which) + i * slab_bytes, map, memory.weight_full(which), columns_inside ? column_of(i) : 0,
               columns_inside ? 0 : column_of(i));
    }
  };
  if (threadIdx.x == P::loader) {
    prefetch_map(maps.x);
    prefetch_map(maps.first);
    prefetch_map(maps.second);
    prefetch_map(maps.y);
    if constexpr (!forward) {
      prefetch_map(maps.z);
      prefetch_map(maps.input);
    }
    memory.init();
    barrier_init_fence();
    async_fence();
    Turn<forward, cluster> turn;
    load_tile(turn);
    load_weight(maps.first, 0, forward);
    for (int i = 1; i < P::first_tiles; ++i) {
      turn.next();
      if (turn.tile < tiles) load_tile(turn);
      if (i == 1) load_weight(maps.second, 1, !forward);
    }
  }
  cluster_sync();

  const auto copy = [&] {
    Turn<forward, cluster> turn;
    if (threadIdx.x == P::loader) {
      for (int i = 0; turn.tile < tiles; turn.next(), ++i) {
        if (i < P::first_tiles) continue;
        if constexpr (forward) {
          const int behind = i - P::first_tiles;
          if (behind == 0 || behind == P::weight_stages) barrier_wait(memory.weight_free(behind / P::weight_stages), 0);
        }
        barrier_wait(memory.empty(turn.place.stage), turn.place.round ^ 1);
        load_tile(turn);
      }
    } else if (threadIdx.x == P::storer) {
      for (; turn.tile < tiles; turn.next()) {
        const int stage = turn.place.stage;
        barrier_wait(memory.ready(stage), turn.place.round);
        for (int i = 0; i < own_slabs && column_of(i) < call.columns; ++i) {
          store_box(maps.y, memory.stage(stage) + i * tile_slab_bytes, column_of(i), turn.tile * tile_rows);
        }
        store_commit();
        store_wait_read<0>();
        barrier_arrive(memory.empty(stage));
      }
    }
  };
  if (role == first) {
    if constexpr (forward) {
      registers_grow<176>();
    } else {
      registers_shrink<48>();
    }
    run_first<T, forward, cluster>(memory, tiles, rank);
  } else if (role == second) {
    if constexpr (forward) {
      registers_grow<208>();
    } else {
      registers_shrink<64>();
    }
    run_second<T, forward, cluster>(memory, call, tiles, own_slabs, rank);
  } else if (role == middle) {
    registers_shrink<forward ? 96 : 40>();
    if (forward || threadIdx.x < P::loader) {
      run_middle<T, forward, cluster>(memory, call, tiles, rank);
    } else {
      copy();
    }
  } else if constexpr (forward) {
    registers_shrink<32>();
    copy();
  } else {
    if (role == up_sums) {
      registers_grow<168>();
      run_sums<false, T, cluster>(memory, maps.input, call, tiles, own_slabs, rank);
    } else {
      registers_grow<160>();
      run_sums<true, T, cluster>(memory, maps.input, call, tiles, own_slabs, rank);
    }
  }
  cluster_sync();  // the others may still send to this block
#endif
}

}  // namespace shared_rows
}  // namespace
}  // namespace veneer::kernels::cuda
