// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>

#include <cstdint>

namespace veneer::device {

// Whether t's numbers lie in the memory of a GPU: it is no tensor of a tracer's (which is meta inside an op) or of a
// transform's.
inline bool on_gpu(const at::Tensor& t) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet wrapped({DispatchKey::Python, DispatchKey::PythonTLSSnapshot,
                                         DispatchKey::Functionalize, DispatchKey::FuncTorchBatched,
                                         DispatchKey::FuncTorchGradWrapper});
  return !t.is_meta() && t.is_cuda() && !t.key_set().has_any(wrapped);
}

// Whether kernels may read t 16 bytes at once.
inline bool is_aligned(const at::Tensor& t) {
  return t.is_contiguous() && reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0;
}
// Itself where that holds, else a copy. Undefined stays so.
inline at::Tensor aligned(const at::Tensor& t) {
  return !t.defined() || is_aligned(t) ? t : t.clone(at::MemoryFormat::Contiguous);
}

}  // namespace veneer::device
