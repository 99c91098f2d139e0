// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Eight numbers: a register of AVX2, two of the processors without it. Vectors are passed by reference, since how they
// are passed by value depends on the processor.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/clones.h"
#include "kernels/unroll.h"

namespace veneer::kernels::cpu {

constexpr int64_t lanes = 8;
using Vector [[gnu::vector_size(sizeof(float) * lanes)]] = float;

VENEER_INLINE void load(Vector& v, const float* p) { std::memcpy(&v, p, sizeof v); }
VENEER_INLINE void store(float* p, const Vector& v) { std::memcpy(p, &v, sizeof v); }

// The first `width` numbers of a vector, the others zero; and those alone.
VENEER_INLINE void load(Vector& v, const float* p, int64_t width) {
  if (width == lanes) return load(v, p);
  v = Vector{};
  std::memcpy(&v, p, static_cast<size_t>(width) * sizeof(float));
}
VENEER_INLINE void store(float* p, const Vector& v, int64_t width) {
  if (width == lanes) return store(p, v);
  std::memcpy(p, &v, static_cast<size_t>(width) * sizeof(float));
}

// Row i of eight becomes column i.
VENEER_INLINE void transpose(Vector (&v)[lanes]) {
  Vector t[lanes], u[lanes];
  VENEER_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    t[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  VENEER_UNROLL
  for (int i = 0; i < 8; i += 4) {
    VENEER_UNROLL
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = __builtin_shufflevector(t[i + j], t[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      u[i + 2 * j + 1] = __builtin_shufflevector(t[i + j], t[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  VENEER_UNROLL
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

}  // namespace veneer::kernels::cpu
