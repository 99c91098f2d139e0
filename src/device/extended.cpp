// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/extended.h"

#include <ATen/ATen.h>

#include "device/launch.h"
#include "kernels/cuda/extended_product.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

Gained product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
               const at::Tensor& bias, const at::Tensor& gain, bool forward) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t columns = weight.size(forward ? 0 : 1);
  const at::Tensor y = at::empty({x.size(0), columns}, x.options());
  const at::Tensor plain = gain.defined() ? at::empty_like(y) : at::Tensor();
  const at::Tensor left = aligned(h), factor = aligned(p), shift = aligned(bias), gains = aligned(gain);
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    const cuda::ExtendedProduct<T> call{in<T>(x),         in<T>(weight), in<T>(left),   in<T>(factor), in<T>(shift),
                                        in<float>(gains), out<T>(y),     out<T>(plain), x.size(0),     x.size(1),
                                        columns,          h.size(1),     forward};
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
  return product(x, weight, h, p, bias, {}, /*forward=*/true).y;
}

Gained extended_gained(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                       const at::Tensor& bias, const at::Tensor& gain) {
  return product(x, weight, h, p, bias, gain, /*forward=*/true);
}

at::Tensor extended_turned(const at::Tensor& dy, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p) {
  return product(dy, weight, h, p, {}, {}, /*forward=*/false).y;
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
at::Tensor extended_turned(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }

#endif

}  // namespace veneer::device
