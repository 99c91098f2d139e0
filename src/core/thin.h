// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The thin products of a low-rank update on a CPU, each in one pass over its large matrix: tile after tile of rows
// comes into the cache, is dropped out there, and all that is wanted of it is computed. Without gradients. Sums are
// float32, and the same for any number of threads. On a GPU: device/thin.h, with the same contracts.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/dropped.h"

namespace veneer::cpu {

// Whether products of x [N, d], N and d at least 1, with matrices [rank, d] are taken: contiguous numbers of 16 or 32
// bits in the memory of a CPU. For small ranks: tiles stay in the cache beside the factor.
bool takes_thin(const at::Tensor& x, int64_t rank);
// Whether its tiles are multiplied as they are, by products of pairs (kernels/cpu/pair_products.h): bfloat16 on a
// processor that has them. All other numbers are made float32 in the cache.
bool takes_pairs(const at::Tensor& x);

// scale * dropout(x) factor^T, [N, r]; factor [r, d] of any strides.
at::Tensor reduced(const Dropped& x, const at::Tensor& factor, double scale);
// scale * left^T dropout(x), [r, d] in float32, or in x's dtype; left [N, r].
at::Tensor summed(const Dropped& x, const at::Tensor& left, double scale, bool rounded);
// Both of them, the second turned: [N, r] and [d, r].
std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                                     double scale, double sum_scale, bool rounded);
// y [N, d] = base + bias + scale * h factor, the product with the mask that `mask` has (its x is not read); base [N, d]
// and bias [d] may be undefined.
void expand_into(const at::Tensor& y, const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                 const at::Tensor& bias, const at::Tensor& base);

}  // namespace veneer::cpu
