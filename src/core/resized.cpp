// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/resized.h"

#include <ATen/ATen.h>

namespace veneer {

at::Tensor resized(const at::Tensor& x, int64_t n) {
  const int64_t size = x.sym_size(-1).guard_int(__FILE__, __LINE__);  // of features: size() would fix the rows' too
  if (size == n) return x;
  return size < n ? at::constant_pad_nd(x, {0, n - size}) : x.narrow(-1, 0, n);
}

}  // namespace veneer
