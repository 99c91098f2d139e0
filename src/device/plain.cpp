// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/plain.h"

#include <c10/core/DispatchKeySet.h>

namespace veneer::device {

bool is_wrapped(const at::Tensor& t) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet wrapped({DispatchKey::Python, DispatchKey::PythonTLSSnapshot,
                                         DispatchKey::Functionalize, DispatchKey::FuncTorchBatched,
                                         DispatchKey::FuncTorchGradWrapper});
  return t.is_meta() || t.key_set().has_any(wrapped);
}

}  // namespace veneer::device
