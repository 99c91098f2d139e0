// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Backward in shared_rows_kernel.cuh: sums over all of a cluster's rows, parts of the gradients of both weights.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/narrow_inner.cuh"
#include "kernels/cuda/nonlinearity.cuh"
#include "kernels/cuda/shared_rows.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {
namespace shared_rows {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <Nonlinearity kind, class T, int count>
__device__ __forceinline__ void activate_as(uint32_t (&pairs)[count][4]) {
#pragma unroll
  for (auto& four : pairs) {
#pragma unroll
    for (uint32_t& pair : four) {
      const float2 z = unpack<T>(pair);
      pair = pack<T>(activated(kind, z.x), activated(kind, z.y));
    }
  }
}

// Chosen once for all of them. Of zeros, which is what is read outside of z, all make zeros.
template <class T, int count>
__device__ __forceinline__ void activate(Nonlinearity kind, uint32_t (&pairs)[count][4]) {
  switch (kind) {
    case Nonlinearity::gelu: return activate_as<Nonlinearity::gelu, T>(pairs);
    case Nonlinearity::gelu_tanh: return activate_as<Nonlinearity::gelu_tanh, T>(pairs);
    case Nonlinearity::relu: return activate_as<Nonlinearity::relu, T>(pairs);
    case Nonlinearity::silu: return activate_as<Nonlinearity::silu, T>(pairs);
    default: return activate_as<Nonlinearity::tanh, T>(pairs);
  }
}

// Of all of a cluster's tiles in turn: act(z)^T x, or with `down` dz^T input, each as it becomes known. The left side
// is z or dz, turned, in registers; the right side a tile with rows along the product's columns. Those of the input
// have a ring of their own, which nobody else waits for: this warpgroup's first thread loads them.
template <bool down, class T, int cluster>
__device__ __forceinline__ void run_sums(const Memory<false>& memory, const CUtensorMap& input, const Small<T>& call,
                                         int tiles, int own_slabs, int rank) {
  using namespace hopper;
  using P = Plan<false>;
  constexpr int columns = 2 * slab, parts = P::slabs / 2, steps = tile_rows / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  [[maybe_unused]] const uint32_t own = turned_at();
  const auto load_input = [&](int tile, int stage) {
    if (tile >= tiles) return;
    barrier_expect(memory.input_full(stage), P::tile_bytes);
    for (int i = 0; i < P::slabs; ++i) {
      load_box(memory.input(stage) + i * tile_slab_bytes, input, memory.input_full(stage),
               i < own_slabs ? (rank * own_slabs + i) * slab : call.columns, tile * tile_rows);
    }
  };
  float sum[parts][columns / 2] = {};  // two products: one would need more registers than the kernel starts with
  Turn<false, cluster> turn;
  Place<P::inputs> place;  // of the input
  if (down && warp == 0 && lane == 0) {
    for (int i = 0; i < P::inputs; ++i) load_input(turn.tile + i * turn.step(), i);
  }
  for (; turn.tile < tiles; turn.next()) {
    const int stage = turn.place.stage, buffer = turn.buffer.stage;
    if constexpr (down) {
      barrier_wait(memory.input_full(place.stage), place.round);
      barrier_wait(memory.inner_full(buffer), turn.buffer.round);
    } else {
      barrier_wait(memory.full(stage), turn.place.round);
    }
    [[maybe_unused]] uint32_t left[steps][4];
    if constexpr (down) {
      async_fence();
    } else {
#pragma unroll
      for (int step = 0; step < steps; ++step) {
        load_blocks<true>(left[step], memory.z(stage) + own + step * 16 * row_bytes);
      }
      activate<T>(call.nonlinearity, left);
    }
    const uint64_t turned = matrix_descriptor(down ? memory.inner(buffer) : 0, 16);
    const uint64_t right = matrix_descriptor(down ? memory.input(place.stage) : memory.stage(stage), tile_slab_bytes);
    product_fence();
#pragma unroll
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        const uint64_t beside = right + (step * 16 * row_bytes + part * 2 * tile_slab_bytes) / 16;
        if constexpr (down) {
          product_of_turned<std::is_same_v<T, Bf16>>(sum[part], turned + step * 16 * row_bytes / 16, beside, 1);
        } else {
          product<std::is_same_v<T, Bf16>>(sum[part], left[step], beside, 1);
        }
      }
    }
    product_commit();
#pragma unroll
    for (auto& part : sum) settle(part);
    if (lane == 0) barrier_arrive(down ? memory.input_empty(place.stage) : memory.summed(stage));
    if constexpr (down) {
      if (lane == 0) barrier_arrive(memory.inner_free(buffer));
      if (warp == 0 && lane == 0) {
        barrier_wait(memory.input_empty(place.stage), place.round);
        load_input(turn.tile + P::inputs * turn.step(), place.stage);
      }
      __syncwarp();  // products are the whole warp's
      place.next();
    }
  }

  const int64_t own_part = static_cast<int>(blockIdx.x) / cluster;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    float* const to = (down ? call.down_parts : call.up_parts) + (own_part * call.m + row) * call.columns;
#pragma unroll
    for (int i = 0; i < parts * columns / 8; ++i) {
      const int column = rank * own_slabs * slab + 8 * i + lane % 4 * 2;
      const float* const two = sum[i / (columns / 8)] + i % (columns / 8) * 4 + 2 * half;
      if (row < call.m && i < own_slabs * (slab / 8) && column < call.columns) {
        *reinterpret_cast<float2*>(to + column) = {two[0], two[1]};
      }
    }
  }
}
#endif

}  // namespace shared_rows
}  // namespace
}  // namespace veneer::kernels::cuda
