// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Whose kernels serve a tensor. The emulated device of the tests has a file of its own in this one's place.
#include "device/launch.h"
#include "device/plain.h"
#if VENEER_WITH_CUDA
#include "kernels/cuda/image.h"
#include "kernels/cuda/per_device.h"
#endif

namespace veneer::device {

#if VENEER_WITH_CUDA

bool on_gpu(const at::Tensor& t) {
  static cuda::PerDevice images;
  return t.is_cuda() && !is_wrapped(t) && images.of(t.get_device(), [&] {
    const c10::cuda::CUDAGuard guard(t.device());
    return static_cast<int>(cuda::has_image());
  }) != 0;
}

#else

bool on_gpu(const at::Tensor& /*t*/) { return false; }

#endif

bool on_cpu(const at::Tensor& t) { return t.is_cpu() && !is_wrapped(t); }

}  // namespace veneer::device
