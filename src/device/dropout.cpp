// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/dropout.h"

#include "device/launch.h"
#include "kernels/cuda/seeded_dropout.h"

namespace veneer::device {

template <class T>
bool seeded_dropout([[maybe_unused]] const kernels::SeededDropout<T>& call, const at::Tensor& x) {
  if (!on_gpu(x)) return false;
#if VENEER_WITH_CUDA
  const c10::cuda::CUDAGuard guard(x.device());
  check(cuda::seeded_dropout(call, stream()));
  return true;
#else
  absent();
#endif
}

template bool seeded_dropout(const kernels::SeededDropout<float>&, const at::Tensor&);
template bool seeded_dropout(const kernels::SeededDropout<double>&, const at::Tensor&);
template bool seeded_dropout(const kernels::SeededDropout<kernels::Bf16>&, const at::Tensor&);
template bool seeded_dropout(const kernels::SeededDropout<kernels::Fp16>&, const at::Tensor&);

}  // namespace veneer::device
