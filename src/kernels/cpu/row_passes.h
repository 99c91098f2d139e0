// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The passes of transforms in place, of sixteen rows at once: two rows are one complex number, eight of those lie in
// the lanes of vectors (row_transform.h). A tile is [length, 2, 8] numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/vector.h"
#include "kernels/fft.h"

namespace veneer::kernels::cpu {

constexpr int64_t pair = 2 * lanes;  // floats at a place of a tile
using Pair = ComplexOf<Vector>;      // those

VENEER_INLINE void load_pair(Pair& v, const float* p) {
  load(v.re, p);
  load(v.im, p + lanes);
}
VENEER_INLINE void store_pair(float* p, const Pair& v) {
  store(p, v.re);
  store(p + lanes, v.im);
}
VENEER_INLINE Complex complex(const float* p) { return {p[0], p[1]}; }

struct RowPass {
  int radix;
  int64_t length;            // of the pieces that it splits
  std::vector<float> roots;  // of each place in the first part, powers 1 to radix - 1: complex
};

// The passes of a tile, all or the inner ones of a piece: from the longest pieces to the shortest, and back. A piece is
// finished before the next one is begun, so that most passes find it in the first-level cache. Places from `width` on
// are taken for zeros. `twist`, complex, or null: factors on the signal at each place, conjugated on the way back.
void forward_passes(const RowPass* first, const RowPass* end, float* z, int64_t width, const float* twist);
void inverse_passes(const RowPass* first, const RowPass* end, float* z, const float* twist);

// The last pass back and the first one forward of one length in one go: at the signal, which is then zero from place
// `kept` on, and which is multiplied by `twist` [length], or its conjugate, where there is one.
void turning_pass(const RowPass& pass, float* z, int64_t kept, const float* twist, bool conjugate);

}  // namespace veneer::kernels::cpu
