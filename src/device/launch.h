// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the files of this folder share. Without CUDA: only what says so.
#pragma once

#include <ATen/core/Tensor.h>

#include "device/plain.h"

#if VENEER_WITH_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include "kernels/seeded_dropout.h"
#else
#include <c10/util/Exception.h>
#endif

namespace veneer::kernels::cuda {}  // namespace veneer::kernels::cuda

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace cuda = kernels::cuda;

inline int processors() { return at::cuda::getCurrentDeviceProperties()->multiProcessorCount; }
inline void* stream() { return at::cuda::getCurrentCUDAStream().stream(); }
inline void check(int error) { C10_CUDA_CHECK(static_cast<cudaError_t>(error)); }

inline at::Tensor workspace(int64_t bytes, const at::Tensor& like) {
  return at::empty({bytes}, like.options().dtype(at::kByte));
}

template <class T>
const T* in(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}
template <class T>
T* out(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}

// f with a number of the kernels' type for a 16-bit dtype.
template <class F>
void for_16_bit(at::ScalarType type, const F& f) {
  type == at::kBFloat16 ? f(kernels::Bf16{}) : f(kernels::Fp16{});
}

inline bool takes_16_bit(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }
inline bool takes_up_to_32_bit(at::ScalarType type) { return type == at::kFloat || takes_16_bit(type); }
// The same for float32 too.
template <class F>
void for_up_to_32_bit(at::ScalarType type, const F& f) {
  type == at::kFloat ? f(float()) : for_16_bit(type, f);
}

#else

[[noreturn]] inline void absent() { TORCH_INTERNAL_ASSERT(false, "built without CUDA kernels"); }

#endif

}  // namespace veneer::device
