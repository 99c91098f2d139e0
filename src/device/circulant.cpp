// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/circulant.h"

#include <ATen/ATen.h>

#include "device/launch.h"
#include "kernels/cuda/circulant.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

const kernels::Complex* complex_in(const at::Tensor& t) {
  return static_cast<const kernels::Complex*>(t.const_data_ptr());
}

at::Tensor plain_spectrum(const at::Tensor& spectrum) {
  return spectrum.resolve_conj().to(at::kComplexFloat).contiguous();
}

}  // namespace

bool takes_circulant(const at::Tensor& x) {
  if (!on_gpu(x) || x.dim() != 2 || !x.is_contiguous() || !takes_up_to_32_bit(x.scalar_type())) return false;
  const c10::cuda::CUDAGuard guard(x.device());
  return cuda::circulant_supported(x.size(1));
}

at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& spectrum) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor y = at::empty_like(x), w = plain_spectrum(spectrum);
  for_up_to_32_bit(x.scalar_type(), [&]<class T>(T) {
    const cuda::CirculantProduct<T> call{in<T>(x), complex_in(w), out<T>(y), x.size(0), x.size(1)};
    check(cuda::circulant_product(call, stream()));
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& spectrum, bool wants_x) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t n = x.size(0), d = x.size(1);
  const at::Tensor dx = wants_x ? at::empty_like(x) : at::Tensor(), w = plain_spectrum(spectrum);
  const at::Tensor slopes = dy.contiguous();
  const at::Tensor sums = at::empty({d / 2 + 1}, x.options().dtype(at::kComplexFloat));
  const at::Tensor space = workspace(static_cast<int64_t>(cuda::circulant_workspace(n, d)), x);
  for_up_to_32_bit(x.scalar_type(), [&]<class T>(T) {
    const cuda::CirculantGradients<T> call{in<T>(x),
                                           in<T>(slopes),
                                           complex_in(w),
                                           out<T>(dx),
                                           static_cast<kernels::Complex*>(sums.mutable_data_ptr()),
                                           space.mutable_data_ptr(),
                                           n,
                                           d};
    check(cuda::circulant_gradients(call, stream()));
  });
  return {dx, sums};
}

#else

bool takes_circulant(const at::Tensor&) { return false; }
at::Tensor circulant_product(const at::Tensor&, const at::Tensor&) { absent(); }
std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor&, const at::Tensor&, const at::Tensor&, bool) {
  absent();
}

#endif

}  // namespace veneer::device
