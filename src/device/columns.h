// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Kernels of a GPU for matrices taken column by column, or along diagonals. Without gradients.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer::device {

// Whether there are kernels for contiguous rows like y's [N, d]: on a GPU, of float32 or 16-bit numbers, each row a
// multiple of 16 bytes.
bool takes_columns(const at::Tensor& y);

// y * g + (1 - g) * bias; g [d] float32, bias [d] like y, or undefined.
at::Tensor scaled_columns(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias);
// y + bias, in place.
void add_to_columns(const at::Tensor& y, const at::Tensor& bias);
// The sums [d] over rows of dy * (y - bias), in float32; and, where `scaled` is defined, dy * g written to it.
at::Tensor column_sums(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                       const at::Tensor& scaled);

// m [rows, columns] in place, contiguous, on a GPU, float32 or float64: each place has the sum of its diagonal down to
// it.
void diagonal_sums(const at::Tensor& m);

}  // namespace veneer::device
