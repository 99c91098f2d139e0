// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/seeded_dropout.h"

#include <cstring>

namespace veneer::kernels::cpu {
namespace {

float to_float(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Round to nearest even. NaN keeps its upper bits, with the quiet bit set so that truncation cannot make it infinite.
Bf16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

float scaled(float value, double scale) { return value * static_cast<float>(scale); }
double scaled(double value, double scale) { return value * scale; }
Bf16 scaled(Bf16 value, double scale) { return to_bf16(to_float(value) * static_cast<float>(scale)); }

}  // namespace

template <class T>
void seeded_dropout(const SeededDropout<T>& call, int64_t begin, int64_t end) {
  const auto seed = static_cast<uint64_t>(*call.seed);
  int64_t i = begin;
  while (i < end) {
    const auto group = static_cast<uint64_t>(i) >> 2;
    const uint64_t bits = random_bits(seed, group);
    const int64_t stop = end < static_cast<int64_t>((group + 1) << 2) ? end : static_cast<int64_t>((group + 1) << 2);
    for (; i < stop; ++i) {
      const bool keep = ((bits >> (16 * (static_cast<uint64_t>(i) & 3))) & 0xFFFFULL) >= call.threshold;
      call.y[i] = keep ? scaled(call.x[i], call.scale) : T{};
    }
  }
}

template void seeded_dropout(const SeededDropout<float>&, int64_t, int64_t);
template void seeded_dropout(const SeededDropout<double>&, int64_t, int64_t);
template void seeded_dropout(const SeededDropout<Bf16>&, int64_t, int64_t);

}  // namespace veneer::kernels::cpu
