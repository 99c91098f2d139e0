// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/numeric.h"

#include <ATen/ATen.h>

namespace veneer {

at::ScalarType wide_type(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf ? at::kFloat : type; }

at::Tensor wide(const at::Tensor& t) { return t.to(wide_type(t.scalar_type())); }

at::Tensor as(const at::Tensor& t, const at::Tensor& like) { return t.to(like.scalar_type()); }

at::Tensor rows(const at::Tensor& x) {
  if (x.dim() == 2) return x;
  return x.dim() == 1 ? x.unsqueeze(0) : x.flatten(0, -2);
}

at::Tensor unrows(const at::Tensor& y, const at::Tensor& x) {
  if (x.dim() == 2) return y;
  if (x.dim() == 1) return y.squeeze(0);
  const auto sizes = x.sym_sizes();
  return at::unflatten_symint(y, 0, sizes.slice(0, sizes.size() - 1));
}

}  // namespace veneer
