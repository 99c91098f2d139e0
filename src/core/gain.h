// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// What lies above a layer's bias was scaled: by g = m / n, as DoRA's directions are, with norms n that have no
// gradient. The gradient that is wanted is that of the magnitudes m, the sums over the rows of dy * (y - bias), divided
// by n.
struct Gain {
  at::Tensor g;          // [d_out], in float32 at least; undefined: nothing was
  at::Tensor y;          // [N, d_out], the output without it
  at::Tensor n;          // [d_out], as g
  bool rounded = false;  // whether m is in y's dtype: then its gradient may be
};

}  // namespace veneer
