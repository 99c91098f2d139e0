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

// Matrices of a rank r are padded with zeros to groups of eight: `groups` of them.
constexpr int64_t pair_group = 8;

// to [n, 8 groups] = rows [n, d] times `factor`, packed by pack_factor.
void pair_dots(const Bf16* rows, int64_t n, int64_t d, const Bf16* factor, int64_t groups, float* to);
// to [r, d] (+)= left^T rows, rows [n, d]; left [ceil(n / 2), 8 groups, 2]: see pair_up.
void pair_sums(const Bf16* left, int64_t r, const Bf16* rows, int64_t n, int64_t d, float* to, bool accumulate);
// to [n, d] = base + bias + scale * left right, rounded once; base [n, d] and bias [d] may be null. left [n, 8 groups],
// right [4 groups, d, 2]: see pair_up.
struct PairExpansion {
  const Bf16 *left, *right;
  int64_t groups, n, d;
  float scale;
  const float* bias;
  const Bf16* base;
  Bf16* to;
};
void pair_expansion(const PairExpansion& call);

// Rows 2 p and 2 p + 1 of m [rows, n], contiguous, side by side: out [ceil(rows / 2), width, 2], zeros beyond.
void pair_up(const Bf16* m, int64_t rows, int64_t n, int64_t width, Bf16* out);
// factor [r, d], contiguous, in the order in which pair_dots reads it; as many numbers as packed_factor says.
void pack_factor(const Bf16* factor, int64_t r, int64_t d, Bf16* out);
int64_t packed_factor(int64_t r, int64_t d);

}  // namespace veneer::kernels::cpu
