// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// x padded with zeros at the end of its last dimension, or cut there, to n.
at::Tensor resized(const at::Tensor& x, int64_t n);

}  // namespace veneer
