// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/row_dropout.h"

#include <ATen/ATen.h>

#include "veneer/dropout.h"

namespace veneer {

at::Tensor RowDropout::factors(const at::Tensor& seed, int64_t d_out) const {
  // Each draws from a seed of its own.
  const auto kept = [&](int64_t n, int64_t stream, double p) {
    const at::Tensor ones = at::ones({n}, at::device(seed.device()).dtype(at::kFloat));
    return seeded_dropout(ones, seed + stream, dropout_probability(p)).ne(0).to(at::kFloat);
  };
  at::Tensor rows = kept(d_out, 1, row);
  if (keeps_mean) rows = rows / rows.mean().clamp_min(0.5 / static_cast<double>(d_out));
  return rows * kept(1, 2, whole);
}

}  // namespace veneer
