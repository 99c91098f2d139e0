// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What is summed over columns is written once for each slice of them, what is summed over rows once for each group of
// strips; a second kernel adds those up.
#include "kernels/cuda/thin_products.h"

#include "kernels/cuda/add_up.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/strips.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int groups_of_columns = warps / 2, wide_own = slice / groups_of_columns;  // where a warp has half of the rows

// As many as the shared memory of an A100 holds.
template <int rank>
constexpr int stages_for = rank <= 16 ? 4 : 3;

static_assert(thin_rank <= most_turned);

template <class T>
bool wants_sums(const ThinReduction<T>& call) {
  return call.sums != nullptr || call.rounded_sums != nullptr;
}

template <int R, bool for_h, bool for_sums>
constexpr int64_t reduction_shared() {
  return stages_for<R> * strip * (pitch + (for_sums ? R + 8 : 0)) * 2 + (for_h ? groups_of_columns * strip * R * 4 : 0);
}

template <class T, int R, bool for_h, bool for_sums, bool masked>
__global__ void __launch_bounds__(threads, 1)
    reduction(ThinReduction<T> call, float* h_parts, float* sums_parts, bool left_in_packs) {
  VENEER_SHARED(unsigned char, shared);
  constexpr int stages = stages_for<R>;
  T* const tiles = reinterpret_cast<T*>(shared);
  T* const lefts = tiles + stages * strip * pitch;
  auto* const parts = reinterpret_cast<float*>(lefts + (for_sums ? stages * strip * (R + 8) : 0));

  await_order();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int g = lane / 4, q = lane % 4 * 2;
  const int n = static_cast<int>(call.n), d = static_cast<int>(call.d), r = static_cast<int>(call.r);
  const int first_column = static_cast<int>(blockIdx.x) * slice;
  const int strips = (n + strip - 1) / strip;

  // This thread's packs of a strip: one column, every rows_apart-th row.
  constexpr int rows_apart = threads / (slice / 8);
  const int pack_row = static_cast<int>(threadIdx.x / (slice / 8));
  const int pack_column = static_cast<int>(threadIdx.x % (slice / 8) * 8);
  const bool column_valid = first_column + pack_column < d;
  const auto prefetch = [&](int index, int stage) {
    if (index < strips) {
      T* const to = tiles + (stage * strip + pack_row) * pitch + pack_column;
      const int row = index * strip + pack_row, left_rows = n - row;
      const T* const from = call.x + static_cast<int64_t>(row) * d + first_column + pack_column;
#pragma unroll
      for (int k = 0; k < strip; k += rows_apart) {
        const bool valid = column_valid && k < left_rows;
        copy_async(to + k * pitch, valid ? from + k * d : call.x, valid);
      }
      if constexpr (for_sums) {
        load_thin<R>(lefts + stage * strip * (R + 8), call.left, r, index * strip, n, left_in_packs);
      }
    }
    copies_commit();  // an empty group too: they are counted
  };

  const int step = static_cast<int>(gridDim.y);
  int index = static_cast<int>(blockIdx.y);
  if constexpr (for_sums) {
    if (left_in_packs) clear(lefts, stages * strip * (R + 8));
    __syncthreads();
  }
  for (int k = 0; k < stages - 1; ++k) prefetch(index + k * step, k);
  const Draw draw(call.mask);

  // The factor's part for h: this warp has rows 16 (warp % 2) .. and the columns of its group.
  constexpr int blocks = for_h ? wide_own / 16 : 1;
  struct {
    uint32_t at[for_h ? R / 8 : 1][2];
  } factor[blocks] = {};
  const int wide_column = warp / 2 * wide_own;
  if constexpr (for_h) {
    constexpr int at_once = R <= 16 ? blocks : 1;  // all at once would take more registers than there are
    load_in_steps<at_once>(factor, [&](auto& block, int i) {
#pragma unroll
      for (int j = 0; j < R / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int column = first_column + wide_column + i * 16 + half * 8 + q, row = j * 8 + g;
          const T* const at = call.factor + row * call.factor_row + column * call.factor_column;
          block.at[j][half] = row < r && column < d ? two(at[0], at[call.factor_column]) : 0U;
        }
      }
    });
  }
  float sums[for_sums ? R / 16 : 1][for_sums ? own / 8 : 1][4] = {};

  // The next strip's mask is drawn while this one is multiplied: neither waits for the other.
  const auto mask_strip = [&](int index, int turn) {
    T* const tile = tiles + turn % stages * strip * pitch;
    for_packs<true>(tile, draw, index * strip, n, first_column, d,
                    [&](int row, int column, int, const Pack<T>& pack) { store(tile + row * pitch + column, pack); });
  };
  if constexpr (masked) {
    copies_wait<stages - 2>();
    __syncthreads();
    mask_strip(index, 0);
  }
  for (int turn = 0; index < strips; index += step, ++turn) {
    copies_wait<stages - (masked ? 3 : 2)>();
    __syncthreads();
    prefetch(index + (stages - 1) * step, (turn + stages - 1) % stages);
    if constexpr (masked) {
      if (index + step < strips) mask_strip(index + step, turn + 1);
    }
    const T* const tile = tiles + turn % stages * strip * pitch;
    if constexpr (for_h) {
      float h[R / 8][4] = {};
      const int row = warp % 2 * 16;
#pragma unroll
      for (int i = 0; i < wide_own / 16; ++i) {
        uint32_t a[4];
        load_blocks<false>(a, tile + (row + lane % 16) * pitch + wide_column + i * 16 + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < R / 8; ++j) multiply_add<T>(h[j], a, factor[i].at[j][0], factor[i].at[j][1]);
      }
      float* const part = parts + (warp / 2 * strip + row) * R;
#pragma unroll
      for (int j = 0; j < R / 8; ++j) {
        *reinterpret_cast<float2*>(part + g * R + j * 8 + q) = make_float2(h[j][0], h[j][1]);
        *reinterpret_cast<float2*>(part + (g + 8) * R + j * 8 + q) = make_float2(h[j][2], h[j][3]);
      }
    }
    if constexpr (for_sums) {
      const T* const left = lefts + turn % stages * strip * (R + 8);
#pragma unroll
      for (int k = 0; k < strip; k += 16) {
        uint32_t b[own / 16][4];  // of 16 columns: the upper and lower half of rows, for each half of the columns
#pragma unroll
        for (int j = 0; j < own / 16; ++j) {
          load_blocks<true>(b[j], tile + (k + lane % 16) * pitch + warp * own + j * 16 + lane / 16 * 8);
        }
#pragma unroll
        for (int i = 0; i < R / 16; ++i) {
          uint32_t a[4];
          load_blocks<true>(a, left + (k + lane / 16 * 8 + lane % 8) * (R + 8) + i * 16 + lane % 16 / 8 * 8);
#pragma unroll
          for (int j = 0; j < own / 16; ++j) {
            multiply_add<T>(sums[i][2 * j], a, b[j][0], b[j][1]);
            multiply_add<T>(sums[i][2 * j + 1], a, b[j][2], b[j][3]);
          }
        }
      }
    }
    if constexpr (for_h) {
      __syncthreads();
      for (int i = thread; i < strip * R; i += threads) {
        const int row = i / R, column = i % R;
        if (index * strip + row >= n || column >= r) continue;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < groups_of_columns; ++k) sum += parts[k * strip * R + i];
        h_parts[(static_cast<int64_t>(blockIdx.x) * n + index * strip + row) * r + column] = sum;
      }
    }
  }
  copies_wait<0>();

  if constexpr (for_sums) {
#pragma unroll
    for (int i = 0; i < R / 16; ++i) {
#pragma unroll
      for (int j = 0; j < own / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = i * 16 + half * 8 + g, column = first_column + warp * own + j * 8 + q;
          if (row >= r || column >= d) continue;
          *reinterpret_cast<float2*>(sums_parts + (static_cast<int64_t>(blockIdx.y) * r + row) * d + column) =
              make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
        }
      }
    }
  }
}

template <class T, int R, bool for_h, bool for_sums, bool masked>
int launch(const ThinReduction<T>& call, int processors, cudaStream_t stream) {
  const Split split(call.n, call.d, processors);
  auto* const sums_parts = static_cast<float*>(call.workspace);  // first: they are stored two by two
  float* const h_parts = sums_parts + (for_sums ? split.groups * call.r * call.d : 0);
  constexpr auto bytes = static_cast<int>(reduction_shared<R, for_h, for_sums>());
  const auto kernel = reduction<T, R, for_h, for_sums, masked>;
  const dim3 grid(static_cast<unsigned>(split.slices), static_cast<unsigned>(split.groups));
  const cudaError_t error = launch_in_order(kernel, grid, threads, bytes, stream, call, h_parts, sums_parts,
                                            for_sums && in_packs(call.left, call.r));
  if (error != cudaSuccess) return static_cast<int>(error);
  if (for_h) launch_add_up(h_parts, split.slices, call.n, call.r, {call.h_scale}, call.h, stream);
  if constexpr (for_sums) {
    const Finish finish{call.sums_scale, call.sums_gain};
    const auto add_up_to = [&](auto* to) {
      if (call.turned) {
        launch_add_up_turned(sums_parts, split.groups, call.r, call.d, finish, to, stream);
      } else {
        launch_add_up(sums_parts, split.groups, call.r, call.d, finish, to, stream);
      }
    };
    call.rounded_sums != nullptr ? add_up_to(call.rounded_sums) : add_up_to(call.sums);
  }
  return static_cast<int>(cudaGetLastError());
}

template <class T, int R, bool masked>
int launch(const ThinReduction<T>& call, int processors, cudaStream_t stream) {
  if constexpr (R <= 16 || (R <= 32 && !masked)) {  // more does not fit into the registers
    if (call.h != nullptr && wants_sums(call)) return launch<T, R, true, true, masked>(call, processors, stream);
  }
  int error = 0;
  if (call.h != nullptr) error = launch<T, R, true, false, masked>(call, processors, stream);
  if (error == 0 && wants_sums(call)) error = launch<T, R, false, true, masked>(call, processors, stream);
  return error;
}

template <class T, int R>
int launch(const ThinReduction<T>& call, int processors, cudaStream_t stream) {
  return call.mask.seed != nullptr ? launch<T, R, true>(call, processors, stream)
                                   : launch<T, R, false>(call, processors, stream);
}

}  // namespace

template <class T>
int64_t thin_reduction_bytes(const ThinReduction<T>& call, int processors) {
  const Split split(call.n, call.d, processors);
  return 4 * ((call.h != nullptr ? split.slices * call.n * call.r : 0) +
              (wants_sums(call) ? split.groups * call.r * call.d : 0));
}

template <class T>
int thin_reduction(const ThinReduction<T>& call, int processors, void* stream) {
  return launch_by_rank(call, [&](auto rank) {
    return launch<T, decltype(rank)::value>(call, processors, static_cast<cudaStream_t>(stream));
  });
}

template int64_t thin_reduction_bytes(const ThinReduction<Bf16>&, int);
template int64_t thin_reduction_bytes(const ThinReduction<Fp16>&, int);
template int thin_reduction(const ThinReduction<Bf16>&, int, void*);
template int thin_reduction(const ThinReduction<Fp16>&, int, void*);

}  // namespace veneer::kernels::cuda
