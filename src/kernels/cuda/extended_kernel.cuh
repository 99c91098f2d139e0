// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// y = x w + h p as one product of depth K + R. A block's last warpgroup copies tiles of 64 of the depth into a ring in
// shared memory, h and p first (without an update, the depth's first block in their place); the other two each multiply
// 64 rows of them. Blocks stay and take one tile of y after another, so the ring fills for the next tile while the last
// one is stored. The blocks of a cluster have the same columns, and each copies its part of w for all. One thread
// copies; the other warps of its group sum up meanwhile what gradients are wanted of the same rows.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "kernels/cuda/extended_product.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/kept.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int workers = 2;  // warpgroups that multiply
constexpr int threads = (workers + 1) * 128;
constexpr int summing_warps = 3;
constexpr int tile_rows = workers * slab;

template <int columns>
struct Layout {
  static constexpr int x_bytes = tile_rows * row_bytes;
  static constexpr int w_bytes = columns * row_bytes;
  static constexpr int stage_bytes = x_bytes + w_bytes;
  static constexpr int stored_bytes = workers * 2 * slab_bytes;
  static constexpr int room = shared_limit - alignment - stored_bytes;
  static constexpr int stages = room / (stage_bytes + 16);  // 16: two barriers
  static constexpr int stored = stages * stage_bytes;
  static constexpr int barriers = stored + stored_bytes;
  static constexpr int bytes = alignment + barriers + stages * 16;
};

struct Maps {
  CUtensorMap x, w, h, p, y, plain;
};

struct Shape {
  int rows, columns;
  int blocks;                   // of the depth, without what comes first
  int steps;                    // of 16, of what comes first: the rank or, without an update, a block of the depth
  int done;                     // of the depth's blocks, by what comes first
  int row_tiles, column_tiles;  // row_tiles: of a cluster
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Bands of so many rows of clusters from top to bottom; in a band column by column. For the L2 cache.
constexpr int band = 8;

__device__ __forceinline__ void locate(const Shape& shape, int tile, int* row_tile, int* column_tile) {
  const int first = tile / (band * shape.column_tiles) * band;
  const int height = min(band, shape.row_tiles - first);
  const int inside = tile - first * shape.column_tiles;
  *row_tile = first + inside % height;
  *column_tile = inside / height;
}
#endif

enum class Kind { forward, gained, turned, masked };

// What is done to the sums besides, and what is summed beside them.
template <class T>
struct More {
  const T* bias;
  const float* gain;
  bool gained_bias;
  Mask mask;
  float kept_scale;
  RowSums<T> of_other;
  RowProducts<T> of_plain;
};

template <class T, Kind kind, int columns, int cluster>
__global__ void __launch_bounds__(threads, 1)
    kernel(const __grid_constant__ Maps maps, [[maybe_unused]] More<T> more, [[maybe_unused]] Shape shape) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using L = Layout<columns>;
  constexpr bool forward = kind == Kind::forward || kind == Kind::gained;
  VENEER_SHARED(uint8_t, memory);
  const uint32_t ring = (shared_address(memory) + alignment - 1) / alignment * alignment;
  const auto full = [&](int stage) { return ring + L::barriers + stage * 16; };
  const auto empty = [&](int stage) { return ring + L::barriers + stage * 16 + 8; };
  const int group = __shfl_sync(~0U, threadIdx.x / 128, 0);  // known to be the same in a warp, so are its descriptors
  const int rank = blockIdx.x % cluster;
  const int tiles = shape.row_tiles * shape.column_tiles;
  const int first = blockIdx.x / cluster, stride = gridDim.x / cluster;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < L::stages; ++stage) {
      barrier_init(full(stage), 1);
      barrier_init(empty(stage), cluster * workers * 4);  // each warp that multiplies
    }
    barrier_init_fence();
  }
  cluster_sync();
  await_order();

  if (group == workers) {
    registers_shrink<forward ? 40 : 152>();  // warps that sum up want many
    if (threadIdx.x == workers * 128) {
      prefetch_map(maps.x);
      prefetch_map(maps.w);
      prefetch_map(maps.h);
      prefetch_map(maps.p);
      prefetch_map(maps.y);
      Place<L::stages> place;
      for (int tile = first; tile < tiles; tile += stride) {
        int row, column;
        locate(shape, tile, &row, &column);
        row = (row * cluster + rank) * tile_rows;
        column *= columns;
        for (int block = -1; block < shape.blocks; ++block, place.next()) {
          const CUtensorMap& left = block < 0 ? maps.h : maps.x;
          const CUtensorMap& right = block < 0 ? maps.p : maps.w;
          const int depth = max(block + shape.done, 0) * slab;
          const uint32_t x = ring + place.stage * L::stage_bytes, w = x + L::x_bytes, barrier = full(place.stage);
          const auto share = [&](uint32_t to, int inner, int outer) {
            if constexpr (cluster == 1) {
              load_box(to, right, barrier, inner, outer);
            } else {
              load_box(to, right, barrier, inner, outer, uint16_t{(1 << cluster) - 1});
            }
          };
          barrier_wait(empty(place.stage), place.round ^ 1);
          barrier_expect(barrier, L::stage_bytes);  // what is outside a matrix is zeros, and counts
          load_box(x, left, barrier, depth, row);
          if constexpr (forward) {
            share(w + rank * (L::w_bytes / cluster), depth, column + rank * (columns / cluster));
          } else {
#pragma unroll
            for (int part = 0; part < columns / slab; ++part) {
              share(w + part * slab_bytes + rank * (slab_bytes / cluster), column + part * slab,
                    depth + rank * (slab / cluster));
            }
          }
        }
      }
    } else if constexpr (!forward) {
      if (threadIdx.x >= workers * 128 + 32) {
        const int warp = threadIdx.x / 32 - workers * 4 - 1, worker = blockIdx.x * summing_warps + warp;
        const int all = gridDim.x * summing_warps;
        sum_rows<kind == Kind::masked>(more.of_other, worker, all);
        multiply_rows(more.of_plain, worker, all);
      }
    }
  } else {
    registers_grow<forward ? 232 : 176>();
    constexpr bool bf16 = std::is_same_v<T, Bf16>;
    constexpr uint32_t right_leading = forward ? 16 : slab_bytes;
    constexpr uint32_t left_step = 32 / 16, right_step = (forward ? 32 : 16 * row_bytes) / 16;  // to the next 16 deep
    const int thread = threadIdx.x % 128, lane = threadIdx.x % 32, warp = thread / 32;
    const auto release = [&](int stage) {
      if (lane < cluster) barrier_arrive(empty(stage), lane);
    };
    // Where this lane's row of a matrix is stored, in 16 rows of its warp; see hopper::store_matrices.
    const uint32_t stored = ring + L::stored + group * 2 * slab_bytes;
    const uint32_t stored_row = (warp * 16 + lane % 16) * row_bytes;
    int buffer = 0;
    float sum[columns / 2];
    Place<L::stages> place;
    const auto position = [&](int tile) {
      int row, column;
      locate(shape, tile, &row, &column);
      return make_int2((row * cluster + rank) * tile_rows + group * slab, column * columns);
    };
    const auto draw = [&](auto& kept, int tile) {
      const int2 at = position(tile);
      kept.start(at.x + warp * 16 + lane / 4, at.y, lane % 4 * 2);
    };
    auto kept = [&] {
      if constexpr (kind == Kind::masked) {
        return Kept<columns>(more.mask, shape.columns);
      } else {
        return 0;
      }
    }();
    if constexpr (kind == Kind::masked) {
      if (first < tiles) draw(kept, first);
    }
    for (int tile = first; tile < tiles; tile += stride) {
      const auto left = [&] { return matrix_descriptor(ring + place.stage * L::stage_bytes + group * slab_bytes, 16); };
      const auto right = [&] {
        return matrix_descriptor(ring + place.stage * L::stage_bytes + L::x_bytes, right_leading);
      };
      barrier_wait(full(place.stage), place.round);
      int low = 0;
#pragma unroll 1
      do {  // with its fence and commit in each turn, and never empty: the compiler adds others to other loops
        product_fence();
        product<bf16, columns, !forward>(sum, left() + low * left_step, right() + low * right_step, low != 0);
        product_commit();
      } while (++low < shape.steps);
      if constexpr (kind == Kind::masked) {
        kept.finish();
        settle(sum);
        kept.apply(sum, more.kept_scale);
        if (tile + stride < tiles) draw(kept, tile + stride);
      }
      int before = place.stage;
      place.next();
      for (int block = 0; block < shape.blocks; ++block) {
        barrier_wait(full(place.stage), place.round);
        product_fence();
#pragma unroll
        for (int step = 0; step < slab / 16; ++step) {
          product<bf16, columns, !forward>(sum, left() + step * left_step, right() + step * right_step, 1);
        }
        product_commit();
        if constexpr (kind == Kind::masked) kept.next();
        product_wait<1>();
        release(before);
        before = place.stage;
        place.next();
      }

      const int2 at_tile = position(tile);
      const int row = at_tile.x, column = at_tile.y;
      uint32_t added[columns / 8] = {};
      if (forward && more.bias != nullptr) {
#pragma unroll
        for (int j = 0; j < columns / 8; ++j) {
          const int at = min(column + j * 8 + lane % 4 * 2, shape.columns - 2);
          added[j] = __ldg(reinterpret_cast<const unsigned int*>(more.bias + at));
        }
      }
      settle(sum);
      release(before);

      // A part of 64 columns, to memory; `value` makes of a number's sum and bias what is stored.
      const auto store_part = [&](const CUtensorMap& map, int part, const auto& value) {
        const uint32_t to = stored + buffer * slab_bytes;
        if (thread == 0) store_wait_read<1>();  // of the two buffers, this one
        warpgroup_sync(1 + group);
#pragma unroll
        for (int j = 0; j < slab / 8; j += 2) {
          uint32_t matrix[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int eight = j + i / 2, at = part * (slab / 8) + eight;
            const float2 shift = unpack<T>(added[at]);
            matrix[i] = pack<T>(value(sum[at * 4 + i % 2 * 2], shift.x, 2 * eight),
                                value(sum[at * 4 + i % 2 * 2 + 1], shift.y, 2 * eight + 1));
          }
          store_columns(to + stored_row, j, lane, matrix);
        }
        async_fence();
        warpgroup_sync(1 + group);
        if (thread == 0) {
          if (row < shape.rows && column + part * slab < shape.columns) {
            store_box(map, to, column + part * slab, row);
          }
          store_commit();
        }
        buffer ^= 1;
      };
#pragma unroll
      for (int part = 0; part < columns / slab; ++part) {
        if constexpr (kind == Kind::gained) {
          float gains[slab / 4];  // of this lane's columns
#pragma unroll
          for (int j = 0; j < slab / 8; ++j) {
            const int at = min(column + part * slab + j * 8 + lane % 4 * 2, shape.columns - 2);
            const float2 two = __ldg(reinterpret_cast<const float2*>(more.gain + at));
            gains[2 * j] = two.x, gains[2 * j + 1] = two.y;
          }
          store_part(maps.y, part, [&](float value, float shift, int at) {
            return fmaf(value, gains[at], more.gained_bias ? shift * gains[at] : shift);
          });
          store_part(maps.plain, part, [](float value, float shift, int) { return value + shift; });
        } else {
          store_part(maps.y, part, [](float value, float shift, int) { return value + shift; });
        }
      }
    }
    if (thread == 0) store_wait_read<0>();
  }
  cluster_sync();  // the others may still copy to this block, or arrive at its barriers
#endif
}

}  // namespace
}  // namespace veneer::kernels::cuda
