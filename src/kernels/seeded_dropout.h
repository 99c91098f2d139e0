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

// 64 random bits for a group of four elements: the splitmix64 finaliser over a Weyl sequence started at the seed.
VENEER_HOST_DEVICE inline uint64_t random_bits(uint64_t seed, uint64_t group) {
  uint64_t z = seed + (group + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

// Whether element `index` is kept: its own 16 bits against the threshold p * 2^16.
VENEER_HOST_DEVICE inline bool kept(uint64_t seed, uint64_t index, uint32_t threshold) {
  return ((random_bits(seed, index >> 2) >> (16 * (index & 3))) & 0xFFFFULL) >= threshold;
}

template <class T>
struct SeededDropout {
  const T* x;
  T* y;
  int64_t n;
  const int64_t* seed;  // one number; on the device where x is
  uint32_t threshold;   // p * 2^16
  double scale;         // 1 / (1 - p)
};

// bfloat16 as its bits: the kernels know no torch type.
struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

}  // namespace veneer::kernels
