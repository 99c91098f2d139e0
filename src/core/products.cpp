// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/products.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/rescaling.h"
#include "core/thin.h"
#include "device/fitting.h"
#include "device/thin.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

// Sums of this many rows at most are held once for each strip of a CPU.
constexpr int64_t few = 64;

// Whether the kernels of a GPU serve: the libraries would have to be given a written mask.
bool on_device(const Dropped& x, int64_t rank) {
  return (x.seed.defined() || rank <= device_rank) && device::takes_thin(x.x, rank);
}

// t * scale; t is nobody else's.
at::Tensor scaled(const at::Tensor& t, double scale) { return scale == 1.0 ? t : t.mul_(scale); }

}  // namespace

bool takes_tiles(const Dropped& x, int64_t rank) {
  const Limits& most = limits();
  const auto type = x.x.scalar_type();
  const int64_t widest = x.seed.defined()        ? most.tiled_rank_masked
                         : type == at::kFloat    ? most.tiled_rank
                         : type == at::kBFloat16 ? most.tiled_rank_bf16
                                                 : most.tiled_rank_16;
  return rank <= widest && cpu::takes_thin(x.x, rank);
}

std::vector<at::Tensor> factors_as(const std::vector<at::Tensor>& factors, const at::Tensor& rows) {
  const at::Tensor &a = factors[0], &b = factors[1];
  if (!device::takes_narrowing(a, b, rows.scalar_type())) return {as(a, rows), as(b, rows)};
  const auto [first, second] = device::narrowed(a, b, rows.scalar_type());
  return {first, second};
}

at::Tensor reduce(const Dropped& x, const at::Tensor& factor, double scale) {
  const int64_t r = factor.sym_size(0).guard_int(__FILE__, __LINE__);
  if (takes_tiles(x, r)) return cpu::reduced(x, factor, scale);
  if (on_device(x, r)) return device::reduced(x, factor, scale);
  // Thin products are fast where both are read along their rows.
  const at::Tensor turned = factor.stride(1) == 1 ? factor.t() : factor.contiguous().t();
  if (!x.seed.defined()) return scaled(at::mm(x.x, turned), scale);
  const at::Tensor h = at::empty_symint({x.x.sym_size(0), factor.sym_size(0)}, x.x.options());
  by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t) {
    at::Tensor part = h.narrow(0, begin, end - begin);
    at::mm_out(part, x.part(begin, end), turned);
  });
  return scaled(h, scale);
}

at::Tensor sum_rows(const Dropped& x, const at::Tensor& left, double scale, bool rounded) {
  const int64_t r = left.sym_size(1).guard_int(__FILE__, __LINE__);
  if (takes_tiles(x, r)) return cpu::summed(x, left, scale, rounded);
  if (on_device(x, r)) return device::summed(x, left, scale, rounded);
  if (!x.seed.defined()) return scaled(at::mm(left.t(), x.x), scale);
  if (r > few) return scaled(at::mm(left.t(), x.part(0, x.x.size(0))), scale);
  const at::Tensor sums = at::zeros({strips_of(x.x), r, x.x.size(1)}, x.x.options());
  by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t strip) {
    sums.select(0, strip).addmm_(left.narrow(0, begin, end - begin).t(), x.part(begin, end));
  });
  return scaled(over_strips(sums), scale);
}

std::pair<at::Tensor, at::Tensor> reduce_and_sum(const at::Tensor& x, const at::Tensor& factor, const at::Tensor& left,
                                                 double scale, double sum_scale, bool rounded, const at::Tensor& gain) {
  if (takes_tiles({x}, std::max(factor.size(0), left.size(1)))) {
    const auto [h, sums] = cpu::reduced_and_summed({x}, factor, left, scale, sum_scale, rounded);
    return {h, gained(sums, gain)};
  }
  if (on_device({x}, factor.size(0))) {
    return device::reduced_and_summed({x}, factor, left, scale, sum_scale, rounded, gain);
  }
  return {reduce({x}, factor, scale), gained(sum_rows({x}, left, sum_scale, rounded).t().contiguous(), gain)};
}

std::string products_served_by(const Dropped& x, int64_t rank) {
  if (takes_tiles(x, rank)) {
    return cpu::takes_pairs(x.x) ? "tiles of rows, two terms at once, on all threads" : "tiles of rows, on all threads";
  }
  if (on_device(x, rank)) return "a GPU's kernels";
  return "library products";
}

at::Tensor expand(const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                  const at::Tensor& bias, const at::Tensor& base) {
  if (mask.seed.defined() && base.defined()) return expand(h, factor, scale, mask).add_(base);  // which has no mask
  at::Tensor y = at::empty_symint({h.sym_size(0), factor.sym_size(1)}, h.options());
  const int64_t r = factor.sym_size(0).guard_int(__FILE__, __LINE__);
  if (takes_tiles({y, mask.seed}, r)) {
    cpu::expand_into(y, h, factor, scale, mask, bias, base);
    return y;
  }
  if (device::takes_thin(y, r)) {
    device::expand_into(y, h, factor, scale, mask, bias, base);
    return y;
  }
  if (mask.seed.defined()) {
    by_rows(y, false, [&](int64_t begin, int64_t end, int64_t) {
      mask.put_part(y, scaled(at::mm(h.narrow(0, begin, end - begin), factor), scale), begin);
    });
    return y;
  }
  if (base.defined()) {
    const at::Tensor sum = at::addmm(base, h, factor, 1.0, scale);
    if (bias.defined()) add_to_columns(sum, bias);
    return sum;
  }
  return bias.defined() ? at::addmm(bias, h, factor, 1.0, scale) : y.addmm_(h, factor, 0.0, scale);
}

}  // namespace veneer
