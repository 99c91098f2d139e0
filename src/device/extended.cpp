// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/extended.h"

#include <ATen/ATen.h>

#include "device/launch.h"
#include "device/mask.h"
#include "kernels/cuda/extended_product.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

Gained product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
               const at::Tensor& bias, const at::Tensor& gain, const Dropped& mask, bool forward) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t columns = weight.size(forward ? 0 : 1);
  const at::Tensor y = at::empty({x.size(0), columns}, x.options());
  const at::Tensor plain = gain.defined() ? at::empty_like(y) : at::Tensor();
  const at::Tensor left = aligned(h), factor = aligned(p), shift = aligned(bias), gains = aligned(gain);
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    cuda::ExtendedProduct<T> call{};
    call.x = in<T>(x), call.rows = x.size(0), call.depth = x.size(1);
    call.w = in<T>(weight), call.columns = columns;
    call.h = in<T>(left), call.p = in<T>(factor), call.rank = h.size(1);
    call.bias = in<T>(shift), call.gain = in<float>(gains);
    call.mask = mask_of(mask), call.kept_scale = static_cast<float>(kept_scale(mask));
    call.y = out<T>(y), call.plain = out<T>(plain), call.forward = forward;
    check(cuda::extended_product(call, stream()));
  });
  return {y, plain};
}

}  // namespace

bool takes_extended(const at::Tensor& x, const at::Tensor& weight, int64_t rank) {
  return on_gpu(x) && on_gpu(weight) && takes_16_bit(x.scalar_type()) && is_aligned(x) && is_aligned(weight) &&
         cuda::extended_product_built() &&
         cuda::extended_product_supported(at::cuda::getDeviceProperties(x.get_device())->major, weight.size(1),
                                          weight.size(0), rank);
}

at::Tensor extended(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                    const at::Tensor& bias) {
  return product(x, weight, h, p, bias, {}, {}, /*forward=*/true).y;
}

Gained extended_gained(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                       const at::Tensor& bias, const at::Tensor& gain) {
  return product(x, weight, h, p, bias, gain, {}, /*forward=*/true);
}

bool takes_extended_mask(const at::Tensor& weight, const Dropped& mask) {
  return !mask.seed.defined() || cuda::extended_mask_supported(weight.size(1));
}

at::Tensor extended_turned(const at::Tensor& dy, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                           const Dropped& mask) {
  return product(dy, weight, h, p, {}, {}, mask, /*forward=*/false).y;
}

#else

bool takes_extended(const at::Tensor&, const at::Tensor&, int64_t) { return false; }
at::Tensor extended(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  absent();
}
Gained extended_gained(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       const at::Tensor&) {
  absent();
}
bool takes_extended_mask(const at::Tensor&, const Dropped&) { return false; }
at::Tensor extended_turned(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const Dropped&) {
  absent();
}

#endif

}  // namespace veneer::device
