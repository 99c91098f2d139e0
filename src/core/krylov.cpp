// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/krylov.h"

#include <ATen/ATen.h>

namespace veneer {

at::Tensor shifts(const at::Tensor& v) {
  const int64_t n = v.size(-1);
  return at::constant_pad_nd(v, {n - 1, 0}).unfold(-1, n, 1).flip(-1);
}

// (A^k v)[i] = v[i - k] a[i - 1] ... a[i - k].
at::Tensor scaled_shifts(const at::Tensor& a, const at::Tensor& v) {
  const at::Tensor steps = shifts(a), upper = at::ones_like(steps).triu(1);  // steps[i, k] = a[i - k]
  const at::Tensor products = at::cumprod(steps + upper, -1);  // not one zero above the diagonal: those are costly
  return shifts(v) * at::constant_pad_nd(products, {1, 0, 1, 0}, 1.0);
}

at::Tensor powers(const at::Tensor& d, const at::Tensor& v) {
  return v.unsqueeze(-1) * at::pow(d.unsqueeze(-1), at::arange(v.size(-1), v.options()));
}

}  // namespace veneer
