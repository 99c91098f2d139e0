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

// t contiguous, and where kernels read 16 bytes at once: itself, or a copy. Undefined stays so.
inline at::Tensor aligned(const at::Tensor& t) {
  if (!t.defined()) return t;
  const at::Tensor whole = t.contiguous();
  return reinterpret_cast<uintptr_t>(whole.const_data_ptr()) % 16 == 0 ? whole : whole.clone();
}

}  // namespace veneer::device
