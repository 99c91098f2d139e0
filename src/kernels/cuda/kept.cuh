// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A dropout mask on the sums of a matrix product's tile (kernels/cuda/hopper.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/thin_products.h"
#include "kernels/seeded_dropout.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace veneer::kernels::cuda {

// What a mask keeps of a fragment's sums (hopper::product), drawn bit by bit while the tensor cores are busy with the
// tile before. The columns of a tile lie in one half of a block of the mask's, so a row has one key.
template <int columns>
class Kept {
 public:
  __device__ __forceinline__ Kept(const Mask& mask, int64_t width)
      : seed_(static_cast<uint64_t>(__ldg(reinterpret_cast<const long long*>(mask.seed)))),
        threshold_(mask.threshold),
        width_(width) {}

  // Begins with the sums of row `row` and eight rows below, in a tile from `column` on, of which the first two are
  // `own` columns further on.
  __device__ __forceinline__ void start(int row, int column, int own) {
    upper_ = column % dropout_block >= dropout_words ? 16 : 0;
    word_ = static_cast<uint32_t>(column % dropout_words + own);
    turn_ = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      keys_[half] = block_key(seed_, static_cast<uint64_t>(((row + half * 8) * width_ + column) / dropout_block));
    }
  }
  // Two columns more, of both rows.
  __device__ __forceinline__ void next() {
    if (turn_ == columns / 8) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const uint32_t number = random_word(keys_[half], word_ + k) >> upper_ & 0xFFFFU;
        bits_[half] = bits_[half] >> 1 | static_cast<uint64_t>(number >= threshold_) << 63;
      }
    }
    word_ += 8;
    ++turn_;
  }
  __device__ __forceinline__ void finish() {
    while (turn_ < columns / 8) next();
  }
  __device__ __forceinline__ void apply(float (&sum)[columns / 2], float kept_scale) const {
    constexpr int first = 64 - columns / 4;
#pragma unroll
    for (int i = 0; i < columns / 2; ++i) {
      const bool kept = (bits_[i / 2 % 2] >> (first + i / 4 * 2 + i % 2) & 1) != 0;
      sum[i] = kept ? kept_scale * sum[i] : 0.0F;
    }
  }

 private:
  uint64_t seed_;
  uint32_t threshold_;
  int64_t width_;
  uint64_t bits_[2] = {};
  BlockKey keys_[2] = {};
  uint32_t word_ = 0;
  int upper_ = 0, turn_ = 0;
};

}  // namespace veneer::kernels::cuda

#endif
