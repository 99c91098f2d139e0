// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What calls of our CUDA kernels share. For files of this folder, where the library is built with CUDA.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <utility>

#include "kernels/seeded_dropout.h"

namespace veneer::device {

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

inline bool takes_up_to_32_bit(at::ScalarType type) {
  return type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
}
// The same for float32 too.
template <class F>
void for_up_to_32_bit(at::ScalarType type, const F& f) {
  type == at::kFloat ? f(float()) : for_16_bit(type, f);
}

}  // namespace veneer::device
