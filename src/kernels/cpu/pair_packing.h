// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Small matrices of bfloat16 numbers in the orders in which pair_products.h reads them.
#pragma once

#include <cstdint>

#include "kernels/seeded_dropout.h"  // Bf16

namespace veneer::kernels::cpu {

constexpr int64_t pair_numbers = 32;  // of bfloat16 in a vector
// Matrices of a rank r are padded with zeros to groups of eight: `groups` of them.
constexpr int64_t pair_group = 8;
inline int64_t pair_groups(int64_t r) { return (r + pair_group - 1) / pair_group; }

// Rows 2 p and 2 p + 1 of m [rows, n], contiguous, side by side: out [ceil(rows / 2), width, 2], zeros beyond.
void pair_up(const Bf16* m, int64_t rows, int64_t n, int64_t width, Bf16* out);
// factor [r, d], contiguous, in the order in which pair_dots reads it; as many numbers as packed_factor says.
void pack_factor(const Bf16* factor, int64_t r, int64_t d, Bf16* out);
int64_t packed_factor(int64_t r, int64_t d);

}  // namespace veneer::kernels::cpu
