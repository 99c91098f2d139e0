// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LyCORIS's dropouts: rows of an update, or all of it, left out for all tokens of a call.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

struct RowDropout {
  double row = 0.0;         // the probability of leaving out a row
  double whole = 0.0;       // and of leaving out all
  bool keeps_mean = false;  // divide the rows that are kept by their share

  bool drops() const { return row > 0.0 || whole > 0.0; }
  // The factors [d_out] on the rows in this call, float32; seed: int64 [1].
  at::Tensor factors(const at::Tensor& seed, int64_t d_out) const;
};

}  // namespace veneer
