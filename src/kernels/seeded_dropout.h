// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Counter-based dropout. Torch-free.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define VENEER_HOST_DEVICE __host__ __device__
#else
#define VENEER_HOST_DEVICE
#endif

namespace veneer::kernels {

// Elements come in blocks of 512, with 256 words of 32 bits: element i of a block has one half of word i mod 256, the
// lower one in the first 256 elements. So neighbours need neighbouring words and no shuffle, on any vector width.
constexpr int64_t dropout_block = 512;
constexpr int64_t dropout_words = 256;

struct BlockKey {
  uint32_t start;
  uint32_t twist;
};

// A block's key: the splitmix64 finaliser over a Weyl sequence started at the seed.
VENEER_HOST_DEVICE inline BlockKey block_key(uint64_t seed, uint64_t block) {
  uint64_t z = seed + (block + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return {static_cast<uint32_t>(z), static_cast<uint32_t>(z >> 32)};
}

// Word `j` of a block: a 32-bit finaliser (multiplications of 32 bits are what vector units have), keyed twice.
VENEER_HOST_DEVICE inline uint32_t random_word(BlockKey key, uint32_t j) {
  uint32_t z = key.start + j * 0x9E3779B9U;
  z = (z ^ (z >> 16)) * 0x7FEB352DU;
  z = (z ^ (z >> 15) ^ key.twist) * 0x846CA68BU;
  return z ^ (z >> 16);
}

// Whether element `index` is kept: its own 16 bits against the threshold p * 2^16. The definition; the kernels compute
// whole blocks.
VENEER_HOST_DEVICE inline bool kept(uint64_t seed, uint64_t index, uint32_t threshold) {
  const uint32_t word =
      random_word(block_key(seed, index / dropout_block), static_cast<uint32_t>(index % dropout_words));
  return (index % dropout_block < dropout_words ? word & 0xFFFFU : word >> 16) >= threshold;
}

template <class T>
struct SeededDropout {
  const T* x;
  T* y;
  int64_t n;
  const int64_t* seed;  // one number; on the device where x is
  uint32_t threshold;   // p * 2^16
  double scale;         // 1 / (1 - p)
  int64_t first;        // index, for the mask, of element 0: x and y may be part of a larger tensor
};

// bfloat16 as its bits: the kernels know no torch type.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

}  // namespace veneer::kernels
