// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Backward in shared_rows_kernel.cuh: act(z)^T x over all of a cluster's rows, a part of the gradient of `first`.
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

// The left side is z of the tile, turned, in registers; the right side the tile, with rows along the product's columns.
template <class T, int cluster>
__device__ __forceinline__ void run_sums(const Memory<false>& memory, const Small<T>& call, int tiles, int own_slabs,
                                         int rank) {
  using namespace hopper;
  constexpr int columns = 2 * slab, parts = Plan<false>::slabs / 2, steps = tile_rows / 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const uint32_t own = turned_at();
  float sum[parts][columns / 2] = {};  // two products: one would need more registers than the kernel starts with
  for (Turn<false, cluster> turn; turn.tile < tiles; turn.next()) {
    const int stage = turn.place.stage;
    barrier_wait(memory.full(stage), turn.place.round);
    uint32_t left[steps][4];
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      load_blocks<true>(left[step], memory.z(stage) + own + step * 16 * row_bytes);
    }
    activate<T>(call.nonlinearity, left);
    const uint64_t right = matrix_descriptor(memory.stage(stage), tile_slab_bytes);
    product_fence();
#pragma unroll
    for (int step = 0; step < steps; ++step) {
#pragma unroll
      for (int part = 0; part < parts; ++part) {
        product<std::is_same_v<T, Bf16>>(sum[part], left[step],
                                         right + (step * 16 * row_bytes + part * 2 * tile_slab_bytes) / 16, 1);
      }
    }
    product_commit();
#pragma unroll
    for (auto& part : sum) settle(part);
    if (lane == 0) barrier_arrive(memory.summed(stage));
  }

  const int64_t own_part = static_cast<int>(blockIdx.x) / cluster;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    float* const to = call.up_parts + (own_part * call.m + row) * call.columns;
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
