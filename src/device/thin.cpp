// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/thin.h"

#include <ATen/ATen.h>

#include "device/launch.h"
#include "device/mask.h"
#include "kernels/cuda/row_norms.h"
#include "kernels/cuda/row_product.h"
#include "kernels/cuda/thin_products.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

std::pair<at::Tensor, at::Tensor> reduce(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                         double scale, double sum_scale, bool rounded, bool turned,
                                         const at::Tensor& gain = {}) {
  const c10::cuda::CUDAGuard guard(x.x.device());
  const int64_t n = x.x.size(0), d = x.x.size(1), r = factor.defined() ? factor.size(0) : left.size(1);
  const at::Tensor h = factor.defined() ? at::empty({n, r}, x.x.options()) : at::Tensor();
  const auto sums_type = x.x.options().dtype(rounded ? x.x.scalar_type() : at::kFloat);
  const std::vector<int64_t> sizes = turned ? std::vector<int64_t>{d, r} : std::vector<int64_t>{r, d};
  const at::Tensor sums = !left.defined() ? at::Tensor()
                          : n == 0        ? at::zeros(sizes, sums_type)
                                          : at::empty(sizes, sums_type);
  const at::Tensor gains = floats(gain);
  TORCH_INTERNAL_ASSERT(!left.defined() || left.is_contiguous());
  for_16_bit(x.x.scalar_type(), [&]<class T>(T) {
    cuda::ThinReduction<T> call{};
    call.x = in<T>(x.x), call.n = n, call.d = d, call.r = r, call.mask = mask_of(x);
    call.factor = in<T>(factor), call.h = out<T>(h), call.h_scale = static_cast<float>(scale * kept_scale(x));
    call.left = in<T>(left), call.turned = turned;
    rounded ? void(call.rounded_sums = out<T>(sums)) : void(call.sums = out<float>(sums));
    call.sums_scale = static_cast<float>(sum_scale * kept_scale(x)), call.sums_gain = in<float>(gains);
    if (factor.defined()) call.factor_row = factor.stride(0), call.factor_column = factor.stride(1);
    const at::Tensor space = workspace(cuda::thin_reduction_bytes(call, processors()), x.x);
    call.workspace = space.mutable_data_ptr();
    check(cuda::thin_reduction(call, processors(), stream()));
  });
  return {h, sums};
}

// The same as `reduced` where blocks with whole rows suit, which write no partial results; else undefined.
at::Tensor reduced_by_rows(const at::Tensor& x, const at::Tensor& factor, double scale) {
  const int64_t n = x.size(0), d = x.size(1), r = factor.size(0);
  const int major = at::cuda::getDeviceProperties(x.get_device())->major;
  const bool turned = !is_aligned(factor);
  if (!cuda::row_product_supported(major, processors(), n, d, r) || !cuda::row_product_built() ||
      (turned && !is_aligned(factor.t()))) {
    return {};
  }
  at::Tensor h = at::empty({n, r}, x.options());
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    const cuda::RowProduct<T> call{in<T>(x), n, d, r, in<T>(factor), turned, static_cast<float>(scale), out<T>(h)};
    check(cuda::row_product(call, stream()));
  });
  return h;
}

}  // namespace

bool takes_thin(const at::Tensor& x, int64_t rank) {
  return on_gpu(x) && x.dim() == 2 && takes_16_bit(x.scalar_type()) && x.is_contiguous() &&
         x.size(0) < (int64_t{1} << 30) && rank > 0 && rank <= cuda::thin_rank &&
         cuda::thin_rows(x.const_data_ptr(), x.size(1)) &&
         at::cuda::getDeviceProperties(x.get_device())->sharedMemPerBlockOptin >= cuda::thin_shared_bytes;
}

at::Tensor reduced(const Dropped& x, const at::Tensor& factor, double scale) {
  if (!x.seed.defined()) {
    const c10::cuda::CUDAGuard guard(x.x.device());
    if (at::Tensor h = reduced_by_rows(x.x, factor, scale); h.defined()) return h;
  }
  return reduce(x, factor, {}, scale, 1.0, false, false).first;
}

at::Tensor summed(const Dropped& x, const at::Tensor& left, double scale, bool rounded) {
  return reduce(x, {}, left, 1.0, scale, rounded, false).second;
}

std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                                     double scale, double sum_scale, bool rounded,
                                                     const at::Tensor& gain) {
  return reduce(x, factor, left, scale, sum_scale, rounded, true, gain);
}

void expand_into(const at::Tensor& y, const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                 const at::Tensor& bias, const at::Tensor& base) {
  const c10::cuda::CUDAGuard guard(h.device());
  const int64_t n = h.size(0), r = h.size(1), d = factor.size(1);
  const at::Tensor shift = aligned(bias), under = aligned(base);
  TORCH_INTERNAL_ASSERT(h.is_contiguous());
  for_16_bit(h.scalar_type(), [&]<class T>(T) {
    const cuda::ThinExpansion<T> call{in<T>(h),
                                      n,
                                      d,
                                      r,
                                      mask_of(mask),
                                      in<T>(factor),
                                      factor.stride(0),
                                      factor.stride(1),
                                      static_cast<float>(scale * kept_scale(mask)),
                                      in<T>(shift),
                                      in<T>(under),
                                      out<T>(y)};
    check(cuda::thin_expansion(call, processors(), stream()));
  });
}

bool takes_row_norms(const at::Tensor& weight, int64_t rank, const at::Tensor& magnitudes) {
  return rank <= cuda::row_norms_rank && takes_thin(weight, rank) &&
         (!magnitudes.defined() || magnitudes.scalar_type() == at::kFloat ||
          magnitudes.scalar_type() == weight.scalar_type());
}

RowNorms row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale, double smallest,
                   const at::Tensor& magnitudes) {
  const c10::cuda::CUDAGuard guard(weight.device());
  const at::Tensor factor = aligned(as(a, weight)), up = as(b, weight).contiguous(), given = aligned(magnitudes);
  const at::Tensor norms = at::empty({weight.size(0)}, weight.options().dtype(at::kFloat));
  const at::Tensor gains = given.defined() ? at::empty_like(norms) : at::Tensor();
  for_16_bit(weight.scalar_type(), [&]<class T>(T) {
    const auto launch = [&]<class M>(M) {
      const cuda::RowNorms<T, M> call{in<T>(weight),
                                      weight.size(0),
                                      weight.size(1),
                                      in<T>(factor),
                                      in<T>(up),
                                      up.size(1),
                                      static_cast<float>(scale),
                                      static_cast<float>(smallest),
                                      in<M>(given),
                                      out<float>(norms),
                                      out<float>(gains)};
      check(cuda::row_norms(call, stream()));
    };
    given.defined() && given.scalar_type() == weight.scalar_type() ? launch(T()) : launch(float());
  });
  return {norms, gains};
}

bool takes_scaled_rows(const at::Tensor& t) {
  return on_gpu(t) && t.dim() == 2 && takes_16_bit(t.scalar_type()) && is_aligned(t);
}

at::Tensor scaled_rows(const at::Tensor& t, const at::Tensor& gain) {
  const c10::cuda::CUDAGuard guard(t.device());
  at::Tensor result = at::empty_like(t);
  const at::Tensor gains = floats(gain);
  for_16_bit(t.scalar_type(), [&]<class T>(T) {
    check(cuda::scaled_rows(in<T>(t), t.size(0), t.size(1), in<float>(gains), out<T>(result), stream()));
  });
  return result;
}

#else

bool takes_thin(const at::Tensor&, int64_t) { return false; }
at::Tensor reduced(const Dropped&, const at::Tensor&, double) { absent(); }
at::Tensor summed(const Dropped&, const at::Tensor&, double, bool) { absent(); }
std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped&, const at::Tensor&, const at::Tensor&, double,
                                                     double, bool, const at::Tensor&) {
  absent();
}
void expand_into(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, const Dropped&, const at::Tensor&,
                 const at::Tensor&) {
  absent();
}
bool takes_row_norms(const at::Tensor&, int64_t, const at::Tensor&) { return false; }
RowNorms row_norms(const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double, const at::Tensor&) {
  absent();
}
bool takes_scaled_rows(const at::Tensor&) { return false; }
at::Tensor scaled_rows(const at::Tensor&, const at::Tensor&) { absent(); }

#endif

}  // namespace veneer::device
