// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Thin products of a tile of bfloat16 rows by the processor's products of pairs (AVX512-BF16): each number of a vector
// takes two terms of a sum, and nothing is widened. Sums are float32; subnormal numbers count as zero, as the
// instruction has it.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"  // Bf16

namespace veneer::kernels::cpu {

bool has_pair_products();

// to [n, 8 groups] = rows [n, d] times `factor`, packed by pack_factor.
void pair_dots(const Bf16* rows, int64_t n, int64_t d, const Bf16* factor, int64_t groups, float* to);
// to [r, d] (+)= left^T rows, rows [n, d]; left [ceil(n / 2), 8 groups, 2]: see pair_packing.h.
void pair_sums(const Bf16* left, int64_t r, const Bf16* rows, int64_t n, int64_t d, float* to, bool accumulate);
// to [n, d] = base + bias + scale * left right, rounded once; base [n, d] and bias [d] may be null. left [n, 8 groups],
// right [4 groups, d, 2]: see pair_packing.h.
struct PairExpansion {
  const Bf16 *left, *right;
  int64_t groups, n, d;
  float scale;
  const float* bias;
  const Bf16* base;
  Bf16* to;
};
void pair_expansion(const PairExpansion& call);

}  // namespace veneer::kernels::cpu
