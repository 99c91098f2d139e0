// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/row_passes.h"

namespace veneer::kernels::cpu {
namespace {

// A piece so long and its roots stay in the first-level cache: its passes follow one another.
constexpr int64_t cached = 256;

// A butterfly with its roots w, forward and back; see fft.h.
template <int N>
VENEER_INLINE void split(Pair (&v)[N], const float* w) {
  dft<N>(v);
  VENEER_UNROLL
  for (int64_t j = 1; j < N; ++j) v[j] = v[j] * complex(w + 2 * (j - 1));
}
template <int N>
VENEER_INLINE void join(Pair (&v)[N], const float* w) {
  VENEER_UNROLL
  for (int64_t j = 1; j < N; ++j) v[j] = v[j] * conj(complex(w + 2 * (j - 1)));
  inverse_dft<N>(v);
}

template <int N>
VENEER_INLINE void load_all(Pair (&v)[N], const float* at, int64_t part) {
  VENEER_UNROLL
  for (int j = 0; j < N; ++j) load_pair(v[j], at + j * part * pair);
}
template <int N>
VENEER_INLINE void store_all(float* at, int64_t part, const Pair (&v)[N]) {
  VENEER_UNROLL
  for (int j = 0; j < N; ++j) store_pair(at + j * part * pair, v[j]);
}
// Numbers `part` apart times the twist, the first at its place, or its conjugate.
template <int N>
VENEER_INLINE void turn(Pair (&v)[N], const float* twist, int64_t part, float sign) {
  VENEER_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    const float* const factor = twist + 2 * j * part;
    v[j] = v[j] * Complex{factor[0], sign * factor[1]};
  }
}
// Zeros for those whose place, `offset` and on, is not below `width`; and the same without looking at what stands
// there.
template <int N>
VENEER_INLINE void cut(Pair (&v)[N], int64_t offset, int64_t part, int64_t width) {
  VENEER_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    if (offset + j * part >= width) v[j] = Pair{};
  }
}
template <int N>
VENEER_INLINE void load_cut(Pair (&v)[N], const float* at, int64_t offset, int64_t part, int64_t width) {
  VENEER_UNROLL
  for (int64_t j = 0; j < N; ++j) {
    v[j] = Pair{};
    if (offset + j * part < width) load_pair(v[j], at + j * part * pair);
  }
}

// One pass in place, over the pieces of a tile of d places.
template <bool inverse>
struct Pass {
  template <int N>
  VENEER_INLINE static void run(float* z, int64_t d, int64_t length, const float* roots) {
    const int64_t part = length / N;
    for (int64_t start = 0; start < d; start += length) {
      for (int64_t offset = 0; offset < part; ++offset) {
        float* const at = z + (start + offset) * pair;
        const float* const w = roots + 2 * int64_t{N - 1} * offset;
        Pair v[N];
        load_all<N>(v, at, part);
        inverse ? join<N>(v, w) : split<N>(v, w);
        store_all<N>(at, part, v);
      }
    }
  }
};

// A pass at the signal, over a whole tile: back to it or from it on, or both; at it, the twist and what is cut.
template <bool back, bool on>
struct Signal {
  template <int N>
  VENEER_INLINE static void run(float* z, int64_t length, const float* roots, int64_t width, const float* twist,
                                float sign) {
    const int64_t part = length / N;
    for (int64_t offset = 0; offset < part; ++offset) {
      float* const at = z + offset * pair;
      const float* const w = roots + 2 * int64_t{N - 1} * offset;
      Pair v[N];
      if (back) {
        load_all<N>(v, at, part);
        join<N>(v, w);
      } else {
        load_cut<N>(v, at, offset, part, width);
      }
      if (twist != nullptr) turn<N>(v, twist + 2 * offset, part, sign);
      if (back && on) cut<N>(v, offset, part, width);
      if (on) split<N>(v, w);
      store_all<N>(at, part, v);
    }
  }
};

template <class What, class... Arguments>
VENEER_INLINE void with_radix(int radix, Arguments... arguments) {
  switch (radix) {
    case 2: return What::template run<2>(arguments...);
    case 3: return What::template run<3>(arguments...);
    case 4: return What::template run<4>(arguments...);
    case 5: return What::template run<5>(arguments...);
    case 8: return What::template run<8>(arguments...);
    default: return What::template run<7>(arguments...);
  }
}

VENEER_CLONES void forward_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  with_radix<Pass<false>>(radix, z, d, length, roots);
}
VENEER_CLONES void inverse_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  with_radix<Pass<true>>(radix, z, d, length, roots);
}
VENEER_CLONES void pass_from_signal(int radix, float* z, int64_t length, const float* roots, int64_t width,
                                    const float* twist) {
  with_radix<Signal<false, true>>(radix, z, length, roots, width, twist, 1.0F);
}
VENEER_CLONES void pass_to_signal(int radix, float* z, int64_t length, const float* roots, const float* twist) {
  with_radix<Signal<true, false>>(radix, z, length, roots, length, twist, -1.0F);
}
VENEER_CLONES void pass_by_signal(int radix, float* z, int64_t length, const float* roots, int64_t width,
                                  const float* twist, float sign) {
  with_radix<Signal<true, true>>(radix, z, length, roots, width, twist, sign);
}

}  // namespace

void forward_passes(const RowPass* first, const RowPass* end, float* z, int64_t width, const float* twist) {
  if (first == end) return;
  const int64_t length = first->length, part = length / first->radix;
  if (width < length || twist != nullptr) {
    pass_from_signal(first->radix, z, length, first->roots.data(), width, twist);
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
    pass_to_signal(first->radix, z, length, first->roots.data(), twist);
  } else {
    inverse_pass(first->radix, z, length, length, first->roots.data());
  }
}

void turning_pass(const RowPass& pass, float* z, int64_t kept, const float* twist, bool conjugate) {
  pass_by_signal(pass.radix, z, pass.length, pass.roots.data(), kept, twist, conjugate ? -1.0F : 1.0F);
}

}  // namespace veneer::kernels::cpu
