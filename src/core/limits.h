// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Up to which sizes one way is faster than another, as measured (docs/performance.md), for each kind of processor.
#pragma once

#include <algorithm>
#include <cstdint>

namespace veneer {

struct Limits {
  // Updates by two factors of a higher rank are added to the layer's weight, where there are many rows of more than 16
  // bits.
  int64_t multiplied_rank;
  // Products with matrices of so many rows are by tiles (core/thin.h), of wider ones by the libraries: of float32; of
  // 16 bits; of bfloat16; and of any numbers with a dropout mask, which would have to be written for the libraries.
  int64_t tiled_rank, tiled_rank_16, tiled_rank_bf16, tiled_rank_masked;
};

// Of this processor; where nothing was measured, what arithmetic and bytes suggest.
const Limits& limits();

// On a GPU, as measured on an H100: products without a mask are by own kernels up to this rank.
constexpr int64_t device_rank = 32;

// A matrix with a side of up to this many is multiplied dense where there are many rows, whatever its structure.
constexpr int64_t narrow_side = 128;
inline bool is_narrow(int64_t d_out, int64_t d_in) { return std::min(d_out, d_in) <= narrow_side; }

}  // namespace veneer
