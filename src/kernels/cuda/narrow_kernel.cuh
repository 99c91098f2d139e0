// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Two thin products with a nonlinearity between them (kernels/cuda/narrow_layer.h), or only the first, without it
// (kernels/cuda/row_product.h). A block has 64 rows. Its last warpgroup copies slabs into a ring in shared memory:
// first those of x, each beside its part of `first`; then, from the last columns to the first, since those of x that
// came last may still be in the L2 cache, those of the base, each beside its part of `second`. The other two warpgroups
// take turns with the slabs, each summing up its own share of the inner numbers.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/narrow_inner.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int workers = 2;
constexpr int working = workers * 128, threads = working + 128;
constexpr int stages = 8;  // a multiple of the workers: a stage is always the same worker's
constexpr int stage_bytes = 2 * slab_bytes;
constexpr int pitch = slab + 4;  // of the float32 sums: neighbouring rows in different banks

constexpr int inner_at = stages * stage_bytes;    // act(z) or dz, what the second product multiplies
constexpr int stored_at = inner_at + slab_bytes;  // two slabs of y for each worker; before that the sums
constexpr int dz_sums_at = stored_at + workers * 2 * slab_bytes;  // of each warp
constexpr int barriers_at = dz_sums_at + working / 32 * slab * 4;
constexpr int shared_bytes = alignment + barriers_at + stages * 16;
static_assert(stages % workers == 0 && barriers_at % 8 == 0 && shared_bytes <= shared_limit);
static_assert(slab * pitch * 4 <= workers * 2 * slab_bytes);

struct Maps {
  CUtensorMap x, first, second, base, y;
};

template <class T, bool forward, bool whole = true>
__global__ void __launch_bounds__(threads, 1)
    kernel(const __grid_constant__ Maps maps, [[maybe_unused]] const __grid_constant__ Small<T> call) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  VENEER_SHARED(uint8_t, memory);
  const uint32_t ring = (shared_address(memory) + alignment - 1) / alignment * alignment;
  const uint32_t inner = ring + inner_at;
  auto* const sums = reinterpret_cast<float*>(memory + (ring - shared_address(memory)) + stored_at);
  const auto full = [&](int stage) { return ring + barriers_at + stage * 16; };
  const auto empty = [&](int stage) { return ring + barriers_at + stage * 16 + 8; };
  const int group = __shfl_sync(~0U, threadIdx.x / 128, 0);  // known to be the same in a warp, so are its descriptors
  const int first_row = static_cast<int>(blockIdx.x) * slab;
  const int turns = call.blocks + call.chunks;
  const auto column_of = [&](int turn) { return (turns - 1 - turn) * slab; };  // of a chunk

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; ++stage) {
      barrier_init(full(stage), 1);
      barrier_init(empty(stage), 4);  // each warp of its worker
    }
    barrier_init_fence();
  }
  __syncthreads();
  await_order();

  if (group == workers) {
    if (threadIdx.x == working) {
      prefetch_map(maps.x);
      prefetch_map(maps.first);
      if constexpr (whole) prefetch_map(maps.second);
      Place<stages> place;
      for (int turn = 0; turn < turns; ++turn, place.next()) {
        const uint32_t left = ring + place.stage * stage_bytes, right = left + slab_bytes, barrier = full(place.stage);
        barrier_wait(empty(place.stage), place.round ^ 1);
        if (turn < call.blocks) {
          barrier_expect(barrier, stage_bytes);  // what is outside a matrix is zeros, and counts
          load_box(left, maps.x, barrier, turn * slab, first_row);
          load_box(right, maps.first, barrier, forward ? turn * slab : 0, forward ? 0 : turn * slab);
        } else {
          const int column = column_of(turn);
          barrier_expect(barrier, call.has_base ? stage_bytes : slab_bytes);
          if (call.has_base) load_box(left, maps.base, barrier, column, first_row);
          load_box(right, maps.second, barrier, forward ? 0 : column, forward ? column : 0);
        }
      }
    }
    return;
  }

  constexpr bool bf16 = std::is_same_v<T, Bf16>;
  constexpr uint32_t left_step = 32 / 16, right_step = (forward ? 32 : 16 * row_bytes) / 16;  // to the next 16 deep
  const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32, own_row = warp * 16 + lane / 4;
  // All 64 of the depth, also where m is less: what is beyond it is zeros.
  const auto multiply = [&](float(&sum)[slab / 2], uint32_t left, uint32_t right, int add) {
    const uint64_t a = matrix_descriptor(left, 16), b = matrix_descriptor(right, 16);
    product_fence();
#pragma unroll
    for (int step = 0; step < slab / 16; ++step) {
      product<bf16, slab, !forward>(sum, a + step * left_step, b + step * right_step, add || step > 0);
    }
    product_commit();
  };
  const auto release = [&](int stage) {
    if (lane == 0) barrier_arrive(empty(stage), 0);
  };

  float sum[slab / 2] = {};
  int turn = group;
  for (int before = -1; turn < call.blocks; turn += workers) {
    const int stage = turn % stages;
    barrier_wait(full(stage), turn / stages & 1);
    multiply(sum, ring + stage * stage_bytes, ring + stage * stage_bytes + slab_bytes, 1);
    product_wait<1>();
    if (before >= 0) release(before);
    before = stage;
    if (turn + workers >= call.blocks) {
      product_wait<0>();
      release(stage);
    }
  }
  settle(sum);

  // Both workers' sums as one, row by row.
  const auto own_sums = [&](const auto& f) {
#pragma unroll
    for (int j = 0; j < slab / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto* const at = reinterpret_cast<float2*>(sums + (own_row + half * 8) * pitch + j * 8 + lane % 4 * 2);
        f(*at, make_float2(sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]));
      }
    }
  };
  if (group == 1) own_sums([](float2& at, float2 own) { at = own; });
  group_sync<working>(3);
  if (group == 0) own_sums([](float2& at, float2 own) { at = {at.x + own.x, at.y + own.y}; });
  group_sync<working>(3);
  float2 own_total = {};
#pragma unroll 1
  for (int row = threadIdx.x / 32; row < slab; row += working / 32) {
    const float2 both = *reinterpret_cast<const float2*>(sums + row * pitch + 2 * lane);
    if constexpr (whole) {
      uint32_t known_z = 0;
      if constexpr (!forward) known_z = load_z(call, first_row + row, lane);
      const float2 inner_pair = finish_pair<T, forward>(call, first_row + row, lane, both, known_z);
      if constexpr (!forward) write_active(call, first_row + row, lane, known_z);
      store_shared(inner + in_slab(row, lane), pack<T>(inner_pair.x, inner_pair.y));
      own_total = {own_total.x + inner_pair.x, own_total.y + inner_pair.y};
    } else {  // that is all
      const uint32_t rounded = pack<T>(call.first_scale * both.x, call.first_scale * both.y);
      store_inner(call, call.z, first_row + row, lane, rounded);
    }
  }
  if constexpr (!whole) return;
  auto* const totals = reinterpret_cast<float*>(memory + (ring - shared_address(memory)) + dz_sums_at);
  if constexpr (!forward) reinterpret_cast<float2*>(totals + threadIdx.x / 32 * slab)[lane] = own_total;
  async_fence();
  group_sync<working>(3);
  if constexpr (!forward) {
    if (call.dz_parts != nullptr && threadIdx.x < call.m) {
      float total = 0;
#pragma unroll
      for (int i = 0; i < working / 32; ++i) total += totals[i * slab + threadIdx.x];
      call.dz_parts[static_cast<int64_t>(blockIdx.x) * call.m + threadIdx.x] = total;
    }
  }

  const uint32_t stored = ring + stored_at + group * 2 * slab_bytes;
  const uint32_t stored_row = (warp * 16 + lane % 16) * row_bytes;
  for (int buffer = 0; turn < turns; turn += workers, buffer ^= 1) {
    const int stage = turn % stages, column = column_of(turn);
    const uint32_t left = ring + stage * stage_bytes, to = stored + buffer * slab_bytes;
    uint32_t added[slab / 8] = {};
    if (call.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < slab / 8; ++j) {
        added[j] = load_pair(call.bias + min(column + j * 8 + lane % 4 * 2, call.columns - 2));
      }
    }
    barrier_wait(full(stage), turn / stages & 1);
    multiply(sum, inner, left + slab_bytes, 0);
    uint32_t base[slab / 8][2] = {};
    if (call.has_base) {
#pragma unroll
      for (int j = 0; j < slab / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          base[j][half] = load_shared(left + in_slab(own_row + half * 8, j * 4 + lane % 4));
        }
      }
    }
    settle(sum);
    __syncwarp();
    release(stage);

    if (thread == 0) store_wait_read<1>();  // of the two buffers, this one
    warpgroup_sync(1 + group);
#pragma unroll
    for (int j = 0; j < slab / 8; j += 2) {
      uint32_t matrix[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = j + i / 2, half = i % 2;
        const float2 under = unpack<T>(base[at][half]), more = unpack<T>(added[at]);
        matrix[i] = pack<T>(call.second_scale * sum[at * 4 + half * 2] + (under.x + more.x),
                            call.second_scale * sum[at * 4 + half * 2 + 1] + (under.y + more.y));
      }
      store_columns(to + stored_row, j, lane, matrix);
    }
    async_fence();
    warpgroup_sync(1 + group);
    if (thread == 0) {
      store_box(maps.y, to, column, first_row);
      store_commit();
    }
  }
  if (thread == 0) store_wait_read<0>();
#endif
}

}  // namespace
}  // namespace veneer::kernels::cuda
