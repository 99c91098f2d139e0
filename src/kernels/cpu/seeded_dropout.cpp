// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/seeded_dropout.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/clones.h"

namespace veneer::kernels::cpu {
namespace {

VENEER_INLINE float to_float(Bf16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// Round to nearest even. NaN keeps its upper bits, with the quiet bit set so that truncation cannot make it infinite.
VENEER_INLINE Bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7FFFFFFFU) > 0x7F800000U ? (bits >> 16) | 0x40U : rounded)};
}

// Through the bits: this compiler has no arithmetic of this type for every processor.
VENEER_INLINE float to_float(Fp16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000U) << 16;
  const uint32_t rest = value.bits & 0x7FFFU;
  // Exponent and mantissa move into place; a product by 2^112 sets the bias right, subnormal numbers too.
  const float finite = std::bit_cast<float>(rest << 13) * 0x1p112F;
  const uint32_t bits = rest >= 0x7C00U ? 0x7F800000U | (rest << 13) : std::bit_cast<uint32_t>(finite);
  return std::bit_cast<float>(sign | bits);
}

// Round to nearest even, beyond 65504 to infinity, below 2^-14 to the subnormal numbers.
VENEER_INLINE Fp16 to_fp16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const uint32_t normal = (magnitude - 0x38000000U + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  // A float so large that its unit is 2^-24 rounds as the subnormal numbers do.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  uint32_t half = magnitude < 0x38800000U ? small : normal;
  half = magnitude >= 0x477FF000U ? 0x7C00U : half;
  half = magnitude > 0x7F800000U ? 0x7E00U : half;
  return {static_cast<uint16_t>((bits >> 16 & 0x8000U) | half)};
}

// y (or zero) + x * scale where kept; dropped elements are zero even where x is not finite. The choice is made on bits:
// a conditional product could raise a floating-point exception, and so would not be vectorised.
VENEER_INLINE float mixed(float x, float y, bool keep, bool add, float scale) {
  const auto value = std::bit_cast<float>(std::bit_cast<uint32_t>(x * scale) & -static_cast<uint32_t>(keep));
  return add ? y + value : value;
}
VENEER_INLINE double mixed(double x, double y, bool keep, bool add, double scale) {
  const auto value = std::bit_cast<double>(std::bit_cast<uint64_t>(x * scale) & -static_cast<uint64_t>(keep));
  return add ? y + value : value;
}
VENEER_INLINE Bf16 mixed(Bf16 x, Bf16 y, bool keep, bool add, float scale) {
  return to_bf16(mixed(to_float(x), add ? to_float(y) : 0.0F, keep, add, scale));
}
VENEER_INLINE Fp16 mixed(Fp16 x, Fp16 y, bool keep, bool add, float scale) {
  return to_fp16(mixed(to_float(x), add ? to_float(y) : 0.0F, keep, add, scale));
}

template <class T>
struct Scale {
  using type = float;
};
template <>
struct Scale<double> {
  using type = double;
};

template <class T, bool add>
VENEER_INLINE void run(const SeededDropout<T>& call, int64_t begin, int64_t end) {
  const auto seed = static_cast<uint64_t>(*call.seed);
  const auto scale = static_cast<typename Scale<T>::type>(call.scale);
  const auto threshold = static_cast<int32_t>(call.threshold);  // signed: older vector units compare no other
  for (int64_t i = begin; i < end;) {
    const int64_t block = (call.first + i) / dropout_block;
    const BlockKey key = block_key(seed, static_cast<uint64_t>(block));
    const int64_t low = block * dropout_block - call.first, high = low + dropout_words;  // of its halves, in x
    if (i == low && low + dropout_block <= end) {
      const T* __restrict x = call.x + low;
      T* __restrict y = call.y + low;
      for (uint32_t j = 0; j < dropout_words; ++j) {
        const uint32_t word = random_word(key, j);
        y[j] = mixed(x[j], y[j], static_cast<int32_t>(word & 0xFFFFU) >= threshold, add, scale);
        y[j + dropout_words] = mixed(x[j + dropout_words], y[j + dropout_words],
                                     static_cast<int32_t>(word >> 16) >= threshold, add, scale);
      }
    } else {
      for (int64_t k = i; k < std::min(end, low + dropout_block); ++k) {
        const uint32_t word = random_word(key, static_cast<uint32_t>((k - low) % dropout_words));
        const auto bits = static_cast<int32_t>(k < high ? word & 0xFFFFU : word >> 16);
        call.y[k] = mixed(call.x[k], call.y[k], bits >= threshold, add, scale);
      }
    }
    i = std::min(end, low + dropout_block);
  }
}

template <class T>
VENEER_INLINE void either(const SeededDropout<T>& call, int64_t begin, int64_t end) {
  call.accumulate ? run<T, true>(call, begin, end) : run<T, false>(call, begin, end);
}

VENEER_CLONES void cloned(const SeededDropout<float>& call, int64_t begin, int64_t end) { either(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<double>& call, int64_t begin, int64_t end) { either(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<Bf16>& call, int64_t begin, int64_t end) { either(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<Fp16>& call, int64_t begin, int64_t end) { either(call, begin, end); }

}  // namespace

template <class T>
void seeded_dropout(const SeededDropout<T>& call, int64_t begin, int64_t end) {
  cloned(call, begin, end);
}

template void seeded_dropout(const SeededDropout<float>&, int64_t, int64_t);
template void seeded_dropout(const SeededDropout<double>&, int64_t, int64_t);
template void seeded_dropout(const SeededDropout<Bf16>&, int64_t, int64_t);
template void seeded_dropout(const SeededDropout<Fp16>&, int64_t, int64_t);

}  // namespace veneer::kernels::cpu
