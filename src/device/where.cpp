// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Whose kernels serve a tensor. The emulated device of the tests has a file of its own in this one's place.
#include "device/plain.h"

namespace veneer::device {

bool on_gpu(const at::Tensor& t) { return t.is_cuda() && !is_wrapped(t); }
bool on_cpu(const at::Tensor& t) { return t.is_cpu(); }

}  // namespace veneer::device
