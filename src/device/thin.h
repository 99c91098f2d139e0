// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The thin products of a low-rank update on a GPU, each in one pass over its large matrix
// (kernels/cuda/thin_products.h). Without gradients. Sums are float32; results are the same from run to run.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/dropped.h"

namespace veneer::device {

// Whether there are kernels for products of x [N, d] with matrices [rank, d]: for contiguous rows of 16-bit numbers on
// a GPU with enough shared memory, d a multiple of 8, and a small rank.
bool takes_thin(const at::Tensor& x, int64_t rank);

// These need takes_thin of their large matrix. Factors [r, d] may have any strides; h and left [N, r] are
// contiguous; all are in x's dtype.
// scale * dropout(x) factor^T, [N, r].
at::Tensor reduced(const Dropped& x, const at::Tensor& factor, double scale);
// scale * left^T dropout(x), [r, d] in float32, or in x's dtype.
at::Tensor summed(const Dropped& x, const at::Tensor& left, double scale, bool rounded);
// Both of them, the second turned: [N, r] and [d, r]; its rows multiplied by gain [d], where there is one.
std::pair<at::Tensor, at::Tensor> reduced_and_summed(const Dropped& x, const at::Tensor& factor, const at::Tensor& left,
                                                     double scale, double sum_scale, bool rounded,
                                                     const at::Tensor& gain);
// y [N, d] = base + bias + scale * h factor, the product with the mask that `mask` has (its x tells N and d, and is not
// read); base [N, d] and bias [d] may be undefined.
void expand_into(const at::Tensor& y, const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask,
                 const at::Tensor& bias, const at::Tensor& base);

// Whether there is a kernel for the norms of weight's rows with an update of that rank: as takes_thin, of a lower one.
// Magnitudes, where there are any, are in weight's dtype or float32.
bool takes_row_norms(const at::Tensor& weight, int64_t rank, const at::Tensor& magnitudes);
struct RowNorms {
  at::Tensor norms, gains;  // [d_out]
};
// The norms of the rows of weight [d_out, d_in] + scale * b a, at least `smallest`, in float32: a [rank, d_in], b
// [d_out, rank]. With magnitudes [d_out], the norms are rounded to their dtype, and gains are magnitudes / norms.
RowNorms row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale, double smallest,
                   const at::Tensor& magnitudes = {});

// Whether there is a kernel for t [d, columns] with row i multiplied by gain[i]: 16-bit numbers in aligned rows on a
// GPU.
bool takes_scaled_rows(const at::Tensor& t);
at::Tensor scaled_rows(const at::Tensor& t, const at::Tensor& gain);

}  // namespace veneer::device
