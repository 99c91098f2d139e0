// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/rescaling.h"

#include <ATen/ATen.h>

#include "core/dropped.h"
#include "device/columns.h"
#include "veneer/numeric.h"

namespace veneer {

at::Tensor rescaled(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias) {
  if (device::takes_columns(y)) return device::scaled_columns(y, g, bias);
  at::Tensor result = at::empty_like(y);
  const at::Tensor shift = bias.defined() ? (1.0 - g) * bias : at::Tensor();
  by_rows(y, false, [&](int64_t begin, int64_t end, int64_t) {
    at::Tensor out = result.narrow(0, begin, end - begin);
    const at::Tensor part = y.narrow(0, begin, end - begin);
    if (g.scalar_type() == y.scalar_type()) {
      at::mul_out(out, part, g);
      if (shift.defined()) out.add_(shift);
    } else {
      out.copy_(shift.defined() ? at::addcmul(shift, part, g) : part * g);
    }
  });
  return result;
}

Rescaled rescaled_pullback(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                           bool wants_y) {
  if (device::takes_columns(y)) {
    const at::Tensor scaled = wants_y ? at::empty_like(dy) : at::Tensor();
    return {scaled, device::column_sums(dy, y, bias, g, scaled)};
  }
  const at::Tensor sums = at::zeros({row_strips, g.size(0)}, y.options().dtype(wide_type(y.scalar_type())));
  by_rows(y, false, [&](int64_t begin, int64_t end, int64_t strip) {
    const at::Tensor part = wide(y.narrow(0, begin, end - begin));
    const at::Tensor above = bias.defined() ? part - bias : part;
    sums.select(0, strip).add_((above * dy.narrow(0, begin, end - begin)).sum(0));
  });
  return {wants_y ? rescaled(dy, g, {}) : at::Tensor(), sums.sum(0)};
}

}  // namespace veneer
