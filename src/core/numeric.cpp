// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/numeric.h"

#include <ATen/ATen.h>

#include <vector>

namespace veneer {

at::ScalarType wide_type(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf ? at::kFloat : type; }

namespace {

// Not through the dispatcher for nothing: most tensors have the dtype that is asked for.
at::Tensor cast(const at::Tensor& t, at::ScalarType type) { return t.scalar_type() == type ? t : t.to(type); }

}  // namespace

at::Tensor wide(const at::Tensor& t) { return cast(t, wide_type(t.scalar_type())); }

at::Tensor as(const at::Tensor& t, const at::Tensor& like) { return cast(t, like.scalar_type()); }

at::Tensor rows(const at::Tensor& x) {
  if (x.dim() == 2) return x;
  if (x.dim() == 1) return x.unsqueeze(0);
  const auto sizes = x.sym_sizes();
  c10::SymInt n = 1;
  for (const auto& size : sizes.slice(0, sizes.size() - 1)) n = n * size;
  return x.reshape_symint({n, sizes.back()});
}

at::Tensor unrows(const at::Tensor& y, const at::Tensor& x) {
  if (x.dim() == 2) return y;
  if (x.dim() == 1) return y.squeeze(0);
  std::vector<c10::SymInt> sizes = x.sym_sizes().vec();
  sizes.back() = y.sym_size(1);
  return y.view_symint(sizes);
}

}  // namespace veneer
