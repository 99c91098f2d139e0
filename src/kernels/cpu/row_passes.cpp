// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/row_passes.h"

namespace veneer::kernels::cpu {
namespace {

// A piece so long and its roots stay in the first-level cache: its passes follow one another.
constexpr int64_t cached = 256;

// One pass in place, see fft.h. The twist is of a pass over one piece, a whole tile.
template <int N, bool inverse, bool twisted>
VENEER_INLINE void pass(float* z, int64_t d, int64_t length, const float* roots, const float* twist) {
  const int64_t part = length / N;
  for (int64_t start = 0; start < d; start += length) {
    for (int64_t offset = 0; offset < part; ++offset) {
      float* const at = z + (start + offset) * pair;
      const float* const w = roots + 2 * int64_t{N - 1} * offset;
      Pair v[N];
      VENEER_UNROLL
      for (int j = 0; j < N; ++j) load_pair(v[j], at + j * part * pair);
      if constexpr (inverse) {
        VENEER_UNROLL
        for (int64_t j = 1; j < N; ++j) v[j] = v[j] * conj(complex(w + 2 * (j - 1)));
        inverse_dft<N>(v);
        if constexpr (twisted) {
          VENEER_UNROLL
          for (int64_t j = 0; j < N; ++j) v[j] = v[j] * conj(complex(twist + 2 * (offset + j * part)));
        }
      } else {
        if constexpr (twisted) {
          VENEER_UNROLL
          for (int64_t j = 0; j < N; ++j) v[j] = v[j] * complex(twist + 2 * (offset + j * part));
        }
        dft<N>(v);
        VENEER_UNROLL
        for (int64_t j = 1; j < N; ++j) v[j] = v[j] * complex(w + 2 * (j - 1));
      }
      VENEER_UNROLL
      for (int j = 0; j < N; ++j) store_pair(at + j * part * pair, v[j]);
    }
  }
}

// The first forward pass, over a tile whose places from `width` on are zeros, whatever stands there.
template <int N>
VENEER_INLINE void begin(float* z, int64_t length, const float* roots, int64_t width, const float* twist) {
  const int64_t part = length / N;
  for (int64_t offset = 0; offset < part; ++offset) {
    float* const at = z + offset * pair;
    const float* const w = roots + 2 * int64_t{N - 1} * offset;
    Pair v[N];
    VENEER_UNROLL
    for (int64_t j = 0; j < N; ++j) {
      v[j] = Pair{};
      if (offset + j * part >= width) continue;
      load_pair(v[j], at + j * part * pair);
      if (twist != nullptr) v[j] = v[j] * complex(twist + 2 * (offset + j * part));
    }
    dft<N>(v);
    VENEER_UNROLL
    for (int64_t j = 1; j < N; ++j) v[j] = v[j] * complex(w + 2 * (j - 1));
    VENEER_UNROLL
    for (int j = 0; j < N; ++j) store_pair(at + j * part * pair, v[j]);
  }
}

template <int N>
VENEER_INLINE void turn(float* z, int64_t length, const float* roots, int64_t kept, const float* twist,
                        float conjugate) {
  const int64_t part = length / N;
  for (int64_t offset = 0; offset < part; ++offset) {
    float* const at = z + offset * pair;
    const float* const w = roots + 2 * int64_t{N - 1} * offset;
    Pair v[N];
    VENEER_UNROLL
    for (int j = 0; j < N; ++j) load_pair(v[j], at + j * part * pair);
    VENEER_UNROLL
    for (int64_t j = 1; j < N; ++j) v[j] = v[j] * conj(complex(w + 2 * (j - 1)));
    inverse_dft<N>(v);
    if (twist != nullptr) {
      VENEER_UNROLL
      for (int64_t j = 0; j < N; ++j) {
        const float* const factor = twist + 2 * (offset + j * part);
        v[j] = v[j] * Complex{factor[0], conjugate * factor[1]};
      }
    }
    VENEER_UNROLL
    for (int64_t j = 0; j < N; ++j) {
      if (offset + j * part >= kept) v[j] = Pair{};
    }
    dft<N>(v);
    VENEER_UNROLL
    for (int64_t j = 1; j < N; ++j) v[j] = v[j] * complex(w + 2 * (j - 1));
    VENEER_UNROLL
    for (int j = 0; j < N; ++j) store_pair(at + j * part * pair, v[j]);
  }
}

template <bool inverse, bool twisted>
VENEER_INLINE void any_pass(int radix, float* z, int64_t d, int64_t length, const float* roots, const float* twist) {
  switch (radix) {
    case 2: return pass<2, inverse, twisted>(z, d, length, roots, twist);
    case 3: return pass<3, inverse, twisted>(z, d, length, roots, twist);
    case 4: return pass<4, inverse, twisted>(z, d, length, roots, twist);
    case 5: return pass<5, inverse, twisted>(z, d, length, roots, twist);
    case 8: return pass<8, inverse, twisted>(z, d, length, roots, twist);
    default: return pass<7, inverse, twisted>(z, d, length, roots, twist);
  }
}

VENEER_CLONES void forward_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  any_pass<false, false>(radix, z, d, length, roots, nullptr);
}
VENEER_CLONES void inverse_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  any_pass<true, false>(radix, z, d, length, roots, nullptr);
}
VENEER_CLONES void twisted_forward_pass(int radix, float* z, int64_t d, const float* roots, const float* twist) {
  any_pass<false, true>(radix, z, d, d, roots, twist);
}
VENEER_CLONES void begin_cloned(int radix, float* z, int64_t length, const float* roots, int64_t width,
                                const float* twist) {
  switch (radix) {
    case 2: return begin<2>(z, length, roots, width, twist);
    case 3: return begin<3>(z, length, roots, width, twist);
    case 4: return begin<4>(z, length, roots, width, twist);
    case 5: return begin<5>(z, length, roots, width, twist);
    case 8: return begin<8>(z, length, roots, width, twist);
    default: return begin<7>(z, length, roots, width, twist);
  }
}
VENEER_CLONES void twisted_inverse_pass(int radix, float* z, int64_t d, const float* roots, const float* twist) {
  any_pass<true, true>(radix, z, d, d, roots, twist);
}

VENEER_CLONES void turn_cloned(int radix, float* z, int64_t length, const float* roots, int64_t kept,
                               const float* twist, float conjugate) {
  switch (radix) {
    case 2: return turn<2>(z, length, roots, kept, twist, conjugate);
    case 3: return turn<3>(z, length, roots, kept, twist, conjugate);
    case 4: return turn<4>(z, length, roots, kept, twist, conjugate);
    case 5: return turn<5>(z, length, roots, kept, twist, conjugate);
    case 8: return turn<8>(z, length, roots, kept, twist, conjugate);
    default: return turn<7>(z, length, roots, kept, twist, conjugate);
  }
}

}  // namespace

void forward_passes(const RowPass* first, const RowPass* end, float* z, int64_t width, const float* twist) {
  if (first == end) return;
  const int64_t length = first->length, part = length / first->radix;
  if (width < length) {
    begin_cloned(first->radix, z, length, first->roots.data(), width, twist);
  } else if (twist != nullptr) {
    twisted_forward_pass(first->radix, z, length, first->roots.data(), twist);
  } else {
    forward_pass(first->radix, z, length, length, first->roots.data());
  }
  if (length <= cached) {
    while (++first != end) forward_pass(first->radix, z, length, first->length, first->roots.data());
    return;
  }
  for (int64_t i = 0; i < length; i += part) forward_passes(first + 1, end, z + i * pair, part, nullptr);
}

void inverse_passes(const RowPass* first, const RowPass* end, float* z, const float* twist) {
  if (first == end) return;
  const int64_t length = first->length, part = length / first->radix;
  if (length <= cached) {
    for (const RowPass* one = end; --one != first;) {
      inverse_pass(one->radix, z, length, one->length, one->roots.data());
    }
  } else {
    for (int64_t i = 0; i < length; i += part) inverse_passes(first + 1, end, z + i * pair, nullptr);
  }
  if (twist != nullptr) {
    twisted_inverse_pass(first->radix, z, length, first->roots.data(), twist);
  } else {
    inverse_pass(first->radix, z, length, length, first->roots.data());
  }
}

void turning_pass(const RowPass& pass, float* z, int64_t kept, const float* twist, bool conjugate) {
  turn_cloned(pass.radix, z, pass.length, pass.roots.data(), kept, twist, conjugate ? -1.0F : 1.0F);
}

}  // namespace veneer::kernels::cpu
