// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Dropout whose mask is a function of (seed, element index): nothing but the seed is kept for backward, and every
// thread count gives the same mask.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace veneer {

// The probability dropout really uses for a requested p: the nearest multiple of 2^-16 (16 random bits an element).
double dropout_probability(double p);
// The same as kernels want it: an element is dropped where its 16 random bits are below this number; what is kept is
// multiplied by 1 / (1 - p).
uint32_t dropout_threshold(double p);
double dropout_scale(double p);

// x with each element zeroed with probability p and the others divided by 1 - p. seed: int64 [1] on x's device.
// Undefined seed or p == 0: x itself.
at::Tensor seeded_dropout(const at::Tensor& x, const at::Tensor& seed, double p);

// For ops with their own gradients: y = dropout(x), where x and y are contiguous rows of a larger tensor and `first` is
// the index there of their first element. Not differentiable; nothing on meta tensors.
void seeded_dropout_part(const at::Tensor& y, const at::Tensor& x, const at::Tensor& seed, double p, int64_t first);

}  // namespace veneer
