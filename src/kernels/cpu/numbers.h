// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Conversions of 16-bit numbers by their bits, so that loops over them become vector code for every processor.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/cpu/clones.h"
#include "kernels/seeded_dropout.h"  // Bf16, Fp16

namespace veneer::kernels::cpu {

VENEER_INLINE float to_float(float value) { return value; }
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

VENEER_INLINE void from_float(float value, float& to) { to = value; }
VENEER_INLINE void from_float(float value, Bf16& to) { to = to_bf16(value); }
VENEER_INLINE void from_float(float value, Fp16& to) { to = to_fp16(value); }

}  // namespace veneer::kernels::cpu
