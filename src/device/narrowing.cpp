// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/narrowing.h"

#include "device/launch.h"
#include "kernels/cuda/narrowing.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

bool takes_narrowing(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  const auto takes = [](const at::Tensor& t) { return on_gpu(t) && t.scalar_type() == at::kFloat && is_aligned(t); };
  return takes_16_bit(type) && takes(a) && takes(b) && a.get_device() == b.get_device();
}

std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  const c10::cuda::CUDAGuard guard(a.device());
  const std::pair result{at::empty(a.sizes(), a.options().dtype(type)), at::empty(b.sizes(), b.options().dtype(type))};
  for_16_bit(type, [&]<class T>(T) {
    check(cuda::narrow_two<T>(
        {{in<float>(a), in<float>(b)}, {out<T>(result.first), out<T>(result.second)}, {a.numel(), b.numel()}},
        stream()));
  });
  return result;
}

#else

bool takes_narrowing(const at::Tensor&, const at::Tensor&, at::ScalarType) { return false; }
std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor&, const at::Tensor&, at::ScalarType) { absent(); }

#endif

}  // namespace veneer::device
