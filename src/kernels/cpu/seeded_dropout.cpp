// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/seeded_dropout.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/clones.h"
#include "kernels/cpu/numbers.h"

namespace veneer::kernels::cpu {
namespace {

// x * scale where kept; dropped elements are zero even where x is not finite. The choice is made on bits:
// a conditional product could raise a floating-point exception, and so would not be vectorised.
VENEER_INLINE float chosen(float x, bool keep, float scale) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x * scale) & -static_cast<uint32_t>(keep));
}
VENEER_INLINE double chosen(double x, bool keep, double scale) {
  return std::bit_cast<double>(std::bit_cast<uint64_t>(x * scale) & -static_cast<uint64_t>(keep));
}
VENEER_INLINE Bf16 chosen(Bf16 x, bool keep, float scale) { return to_bf16(chosen(to_float(x), keep, scale)); }
VENEER_INLINE Fp16 chosen(Fp16 x, bool keep, float scale) { return to_fp16(chosen(to_float(x), keep, scale)); }

template <class T>
struct Scale {
  using type = float;
};
template <>
struct Scale<double> {
  using type = double;
};

template <class T>
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
        y[j] = chosen(x[j], static_cast<int32_t>(word & 0xFFFFU) >= threshold, scale);
        y[j + dropout_words] = chosen(x[j + dropout_words], static_cast<int32_t>(word >> 16) >= threshold, scale);
      }
    } else {
      for (int64_t k = i; k < std::min(end, low + dropout_block); ++k) {
        const uint32_t word = random_word(key, static_cast<uint32_t>((k - low) % dropout_words));
        const auto bits = static_cast<int32_t>(k < high ? word & 0xFFFFU : word >> 16);
        call.y[k] = chosen(call.x[k], bits >= threshold, scale);
      }
    }
    i = std::min(end, low + dropout_block);
  }
}

VENEER_CLONES void cloned(const SeededDropout<float>& call, int64_t begin, int64_t end) { run(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<double>& call, int64_t begin, int64_t end) { run(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<Bf16>& call, int64_t begin, int64_t end) { run(call, begin, end); }
VENEER_CLONES void cloned(const SeededDropout<Fp16>& call, int64_t begin, int64_t end) { run(call, begin, end); }

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
