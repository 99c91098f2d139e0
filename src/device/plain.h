// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace veneer::device {

// Whether t is a tensor of a tracer's (which is meta inside an op) or of a transform's: it has no numbers to point to.
bool is_wrapped(const at::Tensor& t);
// Whether t's numbers lie in the memory of a GPU that the library has kernels for.
bool on_gpu(const at::Tensor& t);
// Whether t's numbers lie in the memory of a CPU.
bool on_cpu(const at::Tensor& t);

// Whether kernels may read t 16 bytes at once.
inline bool is_aligned(const at::Tensor& t) {
  return t.is_contiguous() && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
}
// Itself where that holds, else a copy. Undefined stays so.
inline at::Tensor aligned(const at::Tensor& t) {
  return !t.defined() || is_aligned(t) ? t : t.clone(at::MemoryFormat::Contiguous);
}

// Contiguous, in float32. Undefined stays so.
inline at::Tensor floats(const at::Tensor& t) {
  return !t.defined() || (t.scalar_type() == at::kFloat && t.is_contiguous()) ? t : t.to(at::kFloat).contiguous();
}

}  // namespace veneer::device
