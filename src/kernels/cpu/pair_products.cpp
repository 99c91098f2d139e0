// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/pair_products.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/clones.h"
#include "kernels/cpu/pair_packing.h"
#include "kernels/cpu/processor.h"
#include "kernels/unroll.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace veneer::kernels::cpu {

#if defined(__x86_64__)

bool has_pair_products() { return processor() >= Processor::avx512_bf16; }

#define VENEER_PAIRS [[gnu::target("avx512f,avx512vl,avx512bw,avx512dq,avx512bf16")]]
#define VENEER_PAIRS_INLINE VENEER_PAIRS VENEER_INLINE

namespace {

constexpr int group = pair_group;
constexpr int64_t numbers = pair_numbers;
constexpr int64_t sums_of_a_vector = 16;

VENEER_PAIRS_INLINE __m512 plus_product(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// Into the cache; an address beyond the numbers does no harm.
VENEER_PAIRS_INLINE void fetch(const Bf16* from) { _mm_prefetch(reinterpret_cast<const char*>(from), _MM_HINT_T0); }

// A pair in all places of a vector.
VENEER_PAIRS_INLINE __m512i everywhere(const Bf16* pair) {
  int32_t bits;
  std::memcpy(&bits, pair, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// 32 numbers of bfloat16 as two vectors of sums see them. The last ones of a row may be fewer: where not all are there,
// which is known when compiling, since masks cost where they are not needed.
template <bool whole>
struct Columns {
  __mmask32 mask;

  explicit Columns(int64_t left) : mask(whole ? ~0U : (1U << left) - 1) {}

  VENEER_PAIRS_INLINE __mmask16 half(int i) const { return static_cast<__mmask16>(mask >> (i * sums_of_a_vector)); }

  VENEER_PAIRS_INLINE __m512i load(const Bf16* from) const {
    return whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(mask, from);
  }
  VENEER_PAIRS_INLINE void store(Bf16* to, __m512i v) const {
    whole ? _mm512_storeu_si512(to, v) : _mm512_mask_storeu_epi16(to, mask, v);
  }
  // Half i of 32 sums, and of 32 pairs.
  VENEER_PAIRS_INLINE __m512 load(const float* from, int i) const {
    from += i * sums_of_a_vector;
    return whole ? _mm512_loadu_ps(from) : _mm512_maskz_loadu_ps(half(i), from);
  }
  VENEER_PAIRS_INLINE void store(float* to, int i, __m512 v) const {
    to += i * sums_of_a_vector;
    whole ? _mm512_storeu_ps(to, v) : _mm512_mask_storeu_ps(to, half(i), v);
  }
  VENEER_PAIRS_INLINE __m512i load_pairs(const Bf16* from, int i) const {
    from += i * numbers;
    return whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi32(half(i), from);
  }
};

// Halves by the compiler's shuffles: this one warns of its own intrinsics for them.
VENEER_PAIRS_INLINE __m256 halves_added(__m512 v) {
  return _mm256_add_ps(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7),
                       __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}

// The sums of eight vectors.
VENEER_PAIRS_INLINE __m256 totals(const __m512 (&v)[group]) {
  __m256 t[group];
  VENEER_UNROLL
  for (int j = 0; j < group; ++j) t[j] = halves_added(v[j]);
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(t[0], t[1]), _mm256_hadd_ps(t[2], t[3]));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(t[4], t[5]), _mm256_hadd_ps(t[6], t[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

// Products of `count` rows with the eight of a group: vectors go along the rows, and each product has its own sum.
template <int count>
struct Dots {
  __m512 sums[count][group];

  template <bool whole>
  VENEER_PAIRS_INLINE void add(Columns<whole> here, const Bf16* rows, int64_t d, const Bf16* factor) {
    __m512i x[count];
    VENEER_UNROLL
    for (int i = 0; i < count; ++i) {
      x[i] = here.load(rows + i * d);
      fetch(rows + (i + 4) * d);  // two steps of two rows ahead: the processor itself looks no further than a page
    }
    VENEER_UNROLL
    for (int j = 0; j < group; ++j) {
      const __m512i a = _mm512_loadu_si512(factor + j * numbers);
      VENEER_UNROLL
      for (int i = 0; i < count; ++i) sums[i][j] = plus_product(sums[i][j], x[i], a);
    }
  }
};

template <int count>
VENEER_PAIRS_INLINE void dots(const Bf16* rows, int64_t d, const Bf16* factor, float* to, int64_t to_row) {
  Dots<count> found{};
  int64_t k = 0;
  for (; k + numbers <= d; k += numbers) found.add(Columns<true>(numbers), rows + k, d, factor + k * group);
  if (k < d) found.add(Columns<false>(d - k), rows + k, d, factor + k * group);
  VENEER_UNROLL
  for (int i = 0; i < count; ++i) _mm256_storeu_ps(to + i * to_row, totals(found.sums[i]));
}

// `count` sums of 32 columns.
template <int count>
struct Sums {
  __m512 sums[count][2];
  // Numbers 0, 32, 1, 33 ... of two vectors: pairs of the two; and from 16 on.
  __m512i first, second;

  VENEER_PAIRS_INLINE void start() {
    first = _mm512_setr_epi32(0x200000, 0x210001, 0x220002, 0x230003, 0x240004, 0x250005, 0x260006, 0x270007, 0x280008,
                              0x290009, 0x2A000A, 0x2B000B, 0x2C000C, 0x2D000D, 0x2E000E, 0x2F000F);
    second = _mm512_add_epi16(first, _mm512_set1_epi16(sums_of_a_vector));
  }

  VENEER_PAIRS_INLINE void add(const Bf16* left, __m512i even, __m512i odd) {
    const __m512i low = _mm512_permutex2var_epi16(even, first, odd);
    const __m512i high = _mm512_permutex2var_epi16(even, second, odd);
    VENEER_UNROLL
    for (int i = 0; i < count; ++i) {
      const __m512i a = everywhere(left + int64_t{2} * i);
      sums[i][0] = plus_product(sums[i][0], a, low);
      sums[i][1] = plus_product(sums[i][1], a, high);
    }
  }
};

template <int count, bool whole>
VENEER_PAIRS_INLINE void sums(Columns<whole> here, const Bf16* left, int64_t left_row, const Bf16* rows, int64_t n,
                              int64_t d, float* to, bool accumulate) {
  Sums<count> found;
  found.start();
  VENEER_UNROLL
  for (int i = 0; i < count; ++i) {
    VENEER_UNROLL
    for (int half = 0; half < 2; ++half) {
      found.sums[i][half] = accumulate ? here.load(to + i * d, half) : _mm512_setzero_ps();
    }
  }
  int64_t i = 0;
  for (; i + 1 < n; i += 2, left += left_row) {
    const Bf16* const row = rows + i * d;
    fetch(row + numbers);  // for the next columns
    fetch(row + d + numbers);
    found.add(left, here.load(row), here.load(row + d));
  }
  if (i < n) found.add(left, here.load(rows + i * d), _mm512_setzero_si512());
  VENEER_UNROLL
  for (int k = 0; k < count; ++k) {
    VENEER_UNROLL
    for (int half = 0; half < 2; ++half) here.store(to + k * d, half, found.sums[k][half]);
  }
}

template <bool whole, int count = group>
VENEER_PAIRS_INLINE void some_sums(Columns<whole> here, int64_t wanted, const Bf16* left, int64_t left_row,
                                   const Bf16* rows, int64_t n, int64_t d, float* to, bool accumulate) {
  if (wanted >= count) return sums<count>(here, left, left_row, rows, n, d, to, accumulate);
  if constexpr (count > 1) some_sums<whole, count - 1>(here, wanted, left, left_row, rows, n, d, to, accumulate);
}

// Columns [j, j + 32) of `count` rows from row i on.
template <int count, bool whole>
VENEER_PAIRS_INLINE void expansion(const PairExpansion& call, Columns<whole> here, int64_t i, int64_t j) {
  const int64_t r = call.groups * group;
  __m512 sums[count][2] = {};
  for (int64_t k = 0; k < r; k += 2) {
    const Bf16* const pairs = call.right + k * call.d + 2 * j;
    const __m512i b[2] = {here.load_pairs(pairs, 0), here.load_pairs(pairs, 1)};
    VENEER_UNROLL
    for (int row = 0; row < count; ++row) {
      const __m512i a = everywhere(call.left + (i + row) * r + k);
      VENEER_UNROLL
      for (int half = 0; half < 2; ++half) sums[row][half] = plus_product(sums[row][half], a, b[half]);
    }
  }
  const __m512 scale = _mm512_set1_ps(call.scale);
  __m512 bias[2] = {};
  if (call.bias != nullptr) {
    bias[0] = here.load(call.bias + j, 0);
    bias[1] = here.load(call.bias + j, 1);
  }
  VENEER_UNROLL
  for (int row = 0; row < count; ++row) {
    const int64_t at = (i + row) * call.d + j;
    const __m512i base = call.base != nullptr ? here.load(call.base + at) : _mm512_setzero_si512();
    const __m256i parts[2] = {__builtin_shufflevector(base, base, 0, 1, 2, 3),
                              __builtin_shufflevector(base, base, 4, 5, 6, 7)};
    __m256i rounded[2];
    VENEER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const __m512 wide =
          _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, parts[half]), 16));
      const __m512 sum = _mm512_fmadd_ps(sums[row][half], scale, _mm512_add_ps(bias[half], wide));
      rounded[half] = (__m256i)_mm512_cvtneps_pbh(sum);
    }
    here.store(call.to + at, __builtin_shufflevector(rounded[0], rounded[1], 0, 1, 2, 3, 4, 5, 6, 7));
  }
}

// All columns of `count` rows at a time, which are then written one after another.
template <int count>
VENEER_PAIRS_INLINE void expansions(const PairExpansion& call, int64_t i = 0) {
  for (; i + count <= call.n; i += count) {
    int64_t j = 0;
    for (; j + numbers <= call.d; j += numbers) expansion<count>(call, Columns<true>(numbers), i, j);
    if (j < call.d) expansion<count>(call, Columns<false>(call.d - j), i, j);
  }
  if constexpr (count > 1) expansions<count / 2>(call, i);
}

}  // namespace

VENEER_PAIRS void pair_dots(const Bf16* rows, int64_t n, int64_t d, const Bf16* factor, int64_t groups, float* to) {
  const int64_t of_a_group = packed_factor(group, d);
  for (int64_t g = 0; g < groups; ++g, factor += of_a_group) {
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) dots<2>(rows + i * d, d, factor, to + (i * groups + g) * group, groups * group);
    if (i < n) dots<1>(rows + i * d, d, factor, to + (i * groups + g) * group, groups * group);
  }
}

VENEER_PAIRS void pair_sums(const Bf16* left, int64_t r, const Bf16* rows, int64_t n, int64_t d, float* to,
                            bool accumulate) {
  const int64_t left_row = 2 * pair_groups(r) * group;
  for (int64_t i = 0; i < r; i += group, left += int64_t{2} * group, to += group * d) {
    int64_t j = 0;
    for (; j + numbers <= d; j += numbers) {
      some_sums(Columns<true>(numbers), r - i, left, left_row, rows + j, n, d, to + j, accumulate);
    }
    if (j < d) some_sums(Columns<false>(d - j), r - i, left, left_row, rows + j, n, d, to + j, accumulate);
  }
}

VENEER_PAIRS void pair_expansion(const PairExpansion& call) { expansions<8>(call); }

#else

bool has_pair_products() { return false; }
void pair_dots(const Bf16*, int64_t, int64_t, const Bf16*, int64_t, float*) {}
void pair_sums(const Bf16*, int64_t, const Bf16*, int64_t, int64_t, float*, bool) {}
void pair_expansion(const PairExpansion&) {}

#endif

}  // namespace veneer::kernels::cpu
