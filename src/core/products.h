// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products of many rows with few: what low-rank updates and narrow layers are made of. By the kernels of a GPU where it
// has them, by tiles of rows on a CPU for low ranks (core/thin.h), else by the libraries. Without gradients; matrices
// are contiguous but for factors, which may have any strides, and all in one dtype. Rows may be none, or meta.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "core/dropped.h"
#include "core/limits.h"

namespace veneer {

// Whether products of x with matrices of `rank` rows are served by tiles of rows on a CPU.
bool takes_tiles(const Dropped& x, int64_t rank);

// Two factors in the dtype of the rows that they are multiplied with.
std::vector<at::Tensor> factors_as(const std::vector<at::Tensor>& factors, const at::Tensor& rows);

// scale * dropout(x) factor^T: x [N, d], factor [r, d] -> [N, r].
at::Tensor reduce(const Dropped& x, const at::Tensor& factor, double scale);
// scale * left^T dropout(x): left [N, r], x [N, d] -> [r, d], in x's dtype; or, where a kernel sums
// in float32 and `rounded` is not asked for, in that.
at::Tensor sum_rows(const Dropped& x, const at::Tensor& left, double scale, bool rounded);
// Both, of one x without dropout, each with its own scale: reduce, and the transpose of sum_rows, [d, r], row i times
// gain[i] where there is a gain [d].
std::pair<at::Tensor, at::Tensor> reduce_and_sum(const at::Tensor& x, const at::Tensor& factor, const at::Tensor& left,
                                                 double scale, double sum_scale, bool rounded,
                                                 const at::Tensor& gain = {});
// base + bias + scale * dropout(h factor), with the mask of `mask`, whose x is not read: h [N, r], factor [r, d],
// base [N, d] and bias [d] or undefined -> [N, d]. No bias with a mask.
at::Tensor expand(const at::Tensor& h, const at::Tensor& factor, double scale, const Dropped& mask = {},
                  const at::Tensor& bias = {}, const at::Tensor& base = {});

// What serves products of x with matrices of `rank` rows, in words.
std::string products_served_by(const Dropped& x, int64_t rank);

}  // namespace veneer
