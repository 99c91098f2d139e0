// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What a block of shared_rows_kernel.cuh has in shared memory, and the order in which its warps go through it.
#pragma once

#include <cuda.h>

#include <type_traits>

#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {
namespace shared_rows {

enum Role : int { first, second, middle, copies, up_sums = copies, down_sums };  // a warpgroup each
constexpr int tile_rows = 32;
constexpr int tile_slab_bytes = tile_rows * row_bytes;

constexpr int two_rows_bytes = 2 * slab * 4;
constexpr int sums_bytes = tile_rows / 2 * two_rows_bytes;  // of a cluster's blocks, of the rows that this block has
constexpr int inner_bytes = tile_rows * row_bytes;          // of all of the tile's rows

// What depends on the direction. Forward, both weights are in registers, and come there through the ring. Backward, the
// sums over all rows take as many, and weights stay in shared memory.
template <bool forward>
struct Plan {
  static constexpr int threads = (forward ? 4 : 5) * 128;
  static constexpr int slabs = forward ? 8 : 4;  // of 64 columns, that a block has room for
  static constexpr int middle_warps = forward ? 4 : 2;
  static constexpr int loader = middle * 128 + middle_warps * 32, storer = loader + 32;  // the threads that copy

  static constexpr int tile_bytes = slabs * tile_slab_bytes;
  static constexpr int stage_bytes = tile_bytes + (forward ? 0 : inner_bytes);  // and z, if it is read
  static constexpr int stages = forward ? 6 : 4;
  static constexpr int inputs = forward ? 0 : 2;   // tiles of the layer's input
  static constexpr int buffers = forward ? 2 : 3;  // of sums and inner numbers
  static constexpr int weight_bytes = slabs * slab_bytes;
  static constexpr int weight_stages = forward ? 2 : 0;           // of the ring, that one takes
  static constexpr int first_tiles = stages - 2 * weight_stages;  // that are loaded while weights are behind them
  static_assert((!forward || weight_bytes <= weight_stages * stage_bytes) && first_tiles >= 2);

  static constexpr int weights_at = forward ? first_tiles * stage_bytes : stages * stage_bytes;
  static constexpr int weight_pitch = forward ? weight_stages * stage_bytes : weight_bytes;
  static constexpr int inputs_at = forward ? stages * stage_bytes : weights_at + 2 * weight_bytes;
  static constexpr int inner_at = inputs_at + inputs * tile_bytes;
  static constexpr int sums_at = inner_at + buffers * inner_bytes;
  static constexpr int barriers_at = sums_at + buffers * sums_bytes;
  static constexpr int barriers = 4 * stages + 3 * buffers + 4 + 2 * inputs;
  static constexpr int shared_bytes = alignment + barriers_at + barriers * 8;
  static_assert(shared_bytes <= shared_limit && stage_bytes % alignment == 0);
};

struct Maps {
  CUtensorMap x, first, second, y, z, input;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// What is where in shared memory; the same in all blocks.
template <bool forward>
struct Memory {
  using P = Plan<forward>;
  uint32_t base;

  __device__ uint32_t stage(int i) const { return base + i * P::stage_bytes; }
  __device__ uint32_t z(int stage_index) const { return stage(stage_index) + P::tile_bytes; }
  __device__ uint32_t input(int i) const { return base + P::inputs_at + i * P::tile_bytes; }
  // 0: first, 1: second.
  __device__ uint32_t weight(int i) const { return base + P::weights_at + i * P::weight_pitch; }
  __device__ uint32_t inner(int i) const { return base + P::inner_at + i * inner_bytes; }
  __device__ uint32_t sums(int i) const { return base + P::sums_at + i * sums_bytes; }

  __device__ uint32_t barrier(int i) const { return base + P::barriers_at + i * 8; }
  __device__ uint32_t full(int i) const { return barrier(i); }
  __device__ uint32_t empty(int i) const { return barrier(P::stages + i); }
  __device__ uint32_t ready(int i) const { return barrier(2 * P::stages + i); }
  __device__ uint32_t summed(int i) const { return barrier(3 * P::stages + i); }
  __device__ uint32_t sums_full(int i) const { return barrier(4 * P::stages + i); }
  __device__ uint32_t inner_full(int i) const { return barrier(4 * P::stages + P::buffers + i); }
  __device__ uint32_t inner_free(int i) const { return barrier(4 * P::stages + 2 * P::buffers + i); }
  __device__ uint32_t weight_full(int i) const { return barrier(4 * P::stages + 3 * P::buffers + i); }
  __device__ uint32_t weight_free(int i) const { return barrier(4 * P::stages + 3 * P::buffers + 2 + i); }
  __device__ uint32_t input_full(int i) const { return barrier(4 * P::stages + 3 * P::buffers + 4 + i); }
  __device__ uint32_t input_empty(int i) const { return barrier(4 * P::stages + 3 * P::buffers + 4 + P::inputs + i); }

  __device__ void init() const {
    for (int i = 0; i < P::stages; ++i) {
      hopper::barrier_init(full(i), 1);
      hopper::barrier_init(empty(i), 1);
      hopper::barrier_init(ready(i), 4);  // each warp
      hopper::barrier_init(summed(i), 4);
    }
    for (int i = 0; i < P::buffers; ++i) {
      hopper::barrier_init(sums_full(i), 1);
      hopper::barrier_init(inner_full(i), 1);
      hopper::barrier_init(inner_free(i), P::inputs > 0 ? 8 : 4);  // each warp that multiplies them
    }
    for (int i = 0; i < P::inputs; ++i) {
      hopper::barrier_init(input_full(i), 1);
      hopper::barrier_init(input_empty(i), 4);
    }
    for (int i = 0; i < 2; ++i) {
      hopper::barrier_init(weight_full(i), 1);
      hopper::barrier_init(weight_free(i), 4);
    }
  }
};

// A cluster's tiles in their order, the same for all of its warps.
template <bool forward, int cluster>
struct Turn {
  int tile = static_cast<int>(blockIdx.x / cluster);
  Place<Plan<forward>::stages> place;
  Place<Plan<forward>::buffers> buffer;

  static __device__ int step() { return static_cast<int>(gridDim.x / cluster); }
  __device__ void next() {
    tile += step();
    place.next();
    buffer.next();
  }
};

// Where this lane begins to read 16 rows of a slab as four matrices of eight rows and eight columns, turned: those of
// columns 0 and 8 of the warp's sixteen, then those of the next eight rows.
__device__ __forceinline__ uint32_t turned_at() {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  return (lane / 16 * 8 + lane % 8) * row_bytes + ((2 * warp + lane / 8 % 2) ^ (lane % 8)) * 16;
}

// A weight as the left side of products: 64 of its rows forward, of its columns backward, with each of its slabs.
template <bool forward>
class Weight;

template <>
class Weight<true> {
 public:
  __device__ __forceinline__ Weight(const Memory<true>& memory, int which) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int row = lane % 8, upper = lane / 8 % 2, right = lane / 16;  // in which of the four matrices of 8 x 8
    hopper::barrier_wait(memory.weight_full(which), 0);
#pragma unroll
    for (int i = 0; i < Plan<true>::slabs; ++i) {
#pragma unroll
      for (int step = 0; step < slab / 16; ++step) {
        const int eight_rows = 2 * warp + upper, eight_deep = 2 * step + right;
        load_blocks<false>(left_[i][step], memory.weight(which) + i * slab_bytes + (8 * eight_rows + row) * row_bytes +
                                               (eight_deep ^ row) * 16);
      }
    }
    __syncwarp();
    if (lane == 0) hopper::barrier_arrive(memory.weight_free(which));
  }

  // sum (+)= 16 of the depth of slab i, with the right side.
  template <class T>
  __device__ __forceinline__ void multiply(float (&sum)[tile_rows / 2], int i, int step, uint64_t right, bool add) {
    hopper::product<std::is_same_v<T, Bf16>>(sum, left_[i][step], right, add);
  }

 private:
  uint32_t left_[Plan<true>::slabs][slab / 16][4];
};

template <>
class Weight<false> {
 public:
  __device__ __forceinline__ Weight(const Memory<false>& memory, int which)
      : left_(hopper::matrix_descriptor(memory.weight(which), 16)) {
    hopper::barrier_wait(memory.weight_full(which), 0);
  }

  template <class T>
  __device__ __forceinline__ void multiply(float (&sum)[tile_rows / 2], int i, int step, uint64_t right, bool add) {
    const uint64_t left = left_ + (i * slab_bytes + step * 16 * row_bytes) / 16;
    hopper::product_of_turned<std::is_same_v<T, Bf16>>(sum, left, right, add);
  }

 private:
  uint64_t left_;
};
#endif

}  // namespace shared_rows
}  // namespace
}  // namespace veneer::kernels::cuda
