// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/rescaling.h"

#include <ATen/ATen.h>

#include "core/dropped.h"
#include "core/tiles.h"
#include "device/columns.h"
#include "device/plain.h"
#include "device/thin.h"
#include "kernels/cpu/columns.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

const float* numbers(const at::Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }

void scale_rows(const at::Tensor& y, const at::Tensor& g, const at::Tensor& shift, const at::Tensor& result) {
  const int64_t d = y.size(1);
  cpu::for_type(y, [&]<class T>(T) {
    by_rows(y, false, [&](int64_t begin, int64_t end, int64_t) {
      kernels::cpu::scale_columns(cpu::in<T>(y) + begin * d, numbers(g), numbers(shift),
                                  cpu::out<T>(result) + begin * d, end - begin, d);
    });
  });
}

// Both gradients while a row is in the cache.
void pull_back_rows(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                    const at::Tensor& sums, const at::Tensor& scaled) {
  const int64_t d = y.size(1);
  cpu::for_type(y, [&]<class T>(T) {
    by_rows(y, false, [&](int64_t begin, int64_t end, int64_t strip) {
      kernels::cpu::scale_and_sum_columns(cpu::in<T>(dy) + begin * d, cpu::in<T>(y) + begin * d, numbers(bias),
                                          numbers(g), cpu::out<float>(sums) + strip * d,
                                          scaled.defined() ? cpu::out<T>(scaled) + begin * d : nullptr, end - begin, d);
    });
  });
}

}  // namespace

at::Tensor rescaled(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias) {
  if (device::takes_columns(y)) return device::scaled_columns(y, g, bias);
  at::Tensor result = at::empty_like(y);
  const at::Tensor shift = bias.defined() ? (1.0 - g) * bias : at::Tensor();
  if (cpu::takes_rows(y)) {
    scale_rows(y, device::floats(g), device::floats(shift), result);
    return result;
  }
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

void add_to_columns(const at::Tensor& y, const at::Tensor& bias) {
  device::takes_columns(y) ? device::add_to_columns(y, bias) : void(y.add_(bias));
}

at::Tensor sum_of_rows(const at::Tensor& t) { return t.sum(0, /*keepdim=*/false, wide_type(t.scalar_type())); }

at::Tensor scaled_rows(const at::Tensor& t, const at::Tensor& gain) {
  if (!gain.defined()) return t;
  return device::takes_scaled_rows(t) ? device::scaled_rows(t, gain) : as(t * gain.unsqueeze(1), t);
}

at::Tensor gained(const at::Tensor& t, const at::Tensor& gain) {
  return gain.defined() ? t.mul_(as(gain, t).unsqueeze(1)) : t;
}

Rescaled rescaled_pullback(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                           bool wants_y) {
  if (device::takes_columns(y)) {
    const at::Tensor scaled = wants_y ? at::empty_like(dy) : at::Tensor();
    return {scaled, device::column_sums(dy, y, bias, g, scaled)};
  }
  const at::Tensor sums = at::zeros({strips_of(y), g.size(0)}, y.options().dtype(wide_type(y.scalar_type())));
  if (cpu::takes_rows(y) && dy.is_contiguous() && dy.scalar_type() == y.scalar_type()) {
    const at::Tensor scaled = wants_y ? at::empty_like(dy) : at::Tensor();
    pull_back_rows(dy, y, device::floats(bias), device::floats(g), sums, scaled);
    return {scaled, over_strips(sums)};
  }
  by_rows(y, false, [&](int64_t begin, int64_t end, int64_t strip) {
    const at::Tensor part = wide(y.narrow(0, begin, end - begin));
    const at::Tensor above = bias.defined() ? part - bias : part;
    sums.select(0, strip).add_((above * dy.narrow(0, begin, end - begin)).sum(0));
  });
  return {wants_y ? rescaled(dy, g, {}) : at::Tensor(), over_strips(sums)};
}

}  // namespace veneer
