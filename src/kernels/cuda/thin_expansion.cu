// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/thin_products.h"

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/strips.cuh"

namespace veneer::kernels::cuda {
namespace {

template <int R>
constexpr int64_t expansion_shared() {
  return strip * pitch * 2 + slice * 2 + 2 * strip * (R + 8) * 2;
}

template <class T>
__device__ void add(Pack<T>& pack, const Pack<T>& more) {
#pragma unroll
  for (int k = 0; k < Pack<T>::size; ++k) pack.at[k] = narrow<T>(wide(pack.at[k]) + wide(more.at[k]));
}

// On a multiprocessor at once, by their registers.
template <int R, bool based>
constexpr int expansion_blocks = R <= 32 && !based ? 2 : 1;

template <class T, int R, bool masked, bool based>
__global__ void __launch_bounds__(threads, expansion_blocks<R, based>)
    expansion(ThinExpansion<T> call, bool h_in_packs) {
  VENEER_SHARED(unsigned char, shared);
  await_order();
  T* const tile = reinterpret_cast<T*>(shared);
  T* const bias = tile + strip * pitch;
  T* const hs = bias + slice;

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int g = lane / 4, q = lane % 4 * 2;
  const int n = static_cast<int>(call.n), d = static_cast<int>(call.d), r = static_cast<int>(call.r);
  const int first_column = static_cast<int>(blockIdx.x) * slice;
  const int strips = (n + strip - 1) / strip, step = static_cast<int>(gridDim.y);
  int index = static_cast<int>(blockIdx.y);

  if (h_in_packs) clear(hs, 2 * strip * (R + 8));
  if (call.bias != nullptr && first_column + thread < d) bias[thread] = call.bias[first_column + thread];
  __syncthreads();
  load_thin<R>(hs, call.h, r, index * strip, n, h_in_packs);
  copies_commit();

  struct {
    uint32_t at[own / 8][2];
  } factor[R / 16] = {};
  constexpr int at_once = R <= 32 ? R / 16 : 2;  // all at once would take more registers than there are
  load_in_steps<at_once>(factor, [&](auto& block, int i) {
#pragma unroll
    for (int j = 0; j < own / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = i * 16 + half * 8 + q, column = first_column + warp * own + j * 8 + g;
        const T* const from = call.factor + column * call.factor_column;
        const auto at = [&](int k) { return k < r && column < d ? from[k * call.factor_row] : T{0}; };
        block.at[j][half] = two(at(row), at(row + 1));
      }
    }
  });
  const Draw draw(call.mask);

  for (int turn = 0; index < strips; index += step, ++turn) {
    copies_wait<0>();
    __syncthreads();  // and the last strip's tile is read
    if (index + step < strips) {
      load_thin<R>(hs + (turn + 1) % 2 * strip * (R + 8), call.h, r, (index + step) * strip, n, h_in_packs);
    }
    copies_commit();
    // Of this thread's packs.
    const int row = static_cast<int>(threadIdx.x / across), lane_of_row = static_cast<int>(threadIdx.x % across);
    const int64_t first = static_cast<int64_t>(index * strip + row) * d + first_column + lane_of_row * 8;
    Pack<T> base[based ? 4 : 1];
    if constexpr (based) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (index * strip + row < n && first_column + (lane_of_row + across * k) * 8 < d) {
          base[k] = load(call.base + first + k * across * 8);
        }
      }
    }
    const T* const h = hs + turn % 2 * strip * (R + 8);
    constexpr int side_by_side = masked && R == 32 ? 1 : 2;  // by the registers that are left
#pragma unroll(side_by_side)
    for (int first_row = 0; first_row < strip; first_row += 16) {
      float sums[own / 8][4] = {};
#pragma unroll
      for (int i = 0; i < R / 16; ++i) {
        uint32_t a[4];
        load_blocks<false>(a, h + (first_row + lane % 16) * (R + 8) + i * 16 + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < own / 8; ++j) multiply_add<T>(sums[j], a, factor[i].at[j][0], factor[i].at[j][1]);
      }
#pragma unroll
      for (int j = 0; j < own / 8; ++j) {
        T* const to = tile + (first_row + g) * pitch + warp * own + j * 8 + q;
        *reinterpret_cast<uint32_t*>(to) = pair<T>(sums[j][0] * call.scale, sums[j][1] * call.scale);
        *reinterpret_cast<uint32_t*>(to + 8 * pitch) = pair<T>(sums[j][2] * call.scale, sums[j][3] * call.scale);
      }
    }
    __syncthreads();
    for_packs<masked>(tile, draw, index * strip, n, first_column, d, [&](int, int column, int k, Pack<T> pack) {
      if constexpr (based) add(pack, base[k]);
      if (call.bias != nullptr) add(pack, load(bias + column));
      store(call.y + first + k * across * 8, pack);
    });
  }
}

template <class T, int R, bool masked, bool based>
int launch(const ThinExpansion<T>& call, int processors, cudaStream_t stream) {
  const Split split(call.n, call.d, expansion_blocks<R, based> * int64_t{processors});
  constexpr auto bytes = static_cast<int>(expansion_shared<R>());
  static_assert(bytes <= 48 * 1024, "more must be asked for");
  const dim3 grid(static_cast<unsigned>(split.slices), static_cast<unsigned>(split.groups));
  launch_in_order(expansion<T, R, masked, based>, grid, threads, bytes, stream, call, in_packs(call.h, call.r));
  return static_cast<int>(cudaGetLastError());
}

template <class T, int R>
int launch(const ThinExpansion<T>& call, int processors, cudaStream_t stream) {
  if (call.base != nullptr) return launch<T, R, false, true>(call, processors, stream);
  return call.mask.seed != nullptr ? launch<T, R, true, false>(call, processors, stream)
                                   : launch<T, R, false, false>(call, processors, stream);
}

}  // namespace

template <class T>
int thin_expansion(const ThinExpansion<T>& call, int processors, void* stream) {
  if (call.base != nullptr && call.mask.seed != nullptr) return static_cast<int>(cudaErrorInvalidValue);
  return launch_by_rank(call, [&](auto rank) {
    return launch<T, decltype(rank)::value>(call, processors, static_cast<cudaStream_t>(stream));
  });
}

template int thin_expansion(const ThinExpansion<Bf16>&, int, void*);
template int thin_expansion(const ThinExpansion<Fp16>&, int, void*);

}  // namespace veneer::kernels::cuda
