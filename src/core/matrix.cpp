// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/matrix.h"

#include <ATen/ATen.h>

#include "veneer/numeric.h"

namespace veneer {

at::Tensor Matrix::apply(const at::Tensor& x, const Params& params) const {
  return at::linear(x, as(dense(params), x));
}

at::Tensor Matrix::accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                              double scale) const {
  const at::Tensor update = as(apply(x, params), y);
  return owned ? y.add_(update, scale) : y.add(update, scale);
}

at::Tensor Matrix::row_norms(const at::Tensor& weight, const Params& params, double scale) const {
  return at::linalg_vector_norm(wide(weight).add(as(dense(params), wide(weight)), scale), 2, at::IntArrayRef{1});
}

}  // namespace veneer
