// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/pair_packing.h"

#include <algorithm>

namespace veneer::kernels::cpu {

void pair_up(const Bf16* m, int64_t rows, int64_t n, int64_t width, Bf16* out) {
  for (int64_t i = 0; i < rows; i += 2, out += 2 * width) {
    const Bf16 *const even = m + i * n, *const odd = even + n;
    const bool both = i + 1 < rows;
    for (int64_t j = 0; j < n; ++j) {
      out[2 * j] = even[j];
      out[2 * j + 1] = both ? odd[j] : Bf16{};
    }
    std::fill(out + 2 * n, out + 2 * width, Bf16{});
  }
}

int64_t packed_factor(int64_t r, int64_t d) {
  return pair_groups(r) * pair_group * ((d + pair_numbers - 1) / pair_numbers) * pair_numbers;
}

// Group after group of eight rows; of a group 32 numbers of each row, then the next 32.
void pack_factor(const Bf16* factor, int64_t r, int64_t d, Bf16* out) {
  for (int64_t group = 0; group < pair_groups(r); ++group) {
    for (int64_t j = 0; j < d; j += pair_numbers) {
      const int64_t here = std::min(pair_numbers, d - j);
      for (int64_t i = group * pair_group; i < (group + 1) * pair_group; ++i, out += pair_numbers) {
        const int64_t count = i < r ? here : 0;
        std::copy_n(factor + i * d + j, count, out);
        std::fill(out + count, out + pair_numbers, Bf16{});
      }
    }
  }
}

}  // namespace veneer::kernels::cpu
