// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The rows that fused paths go through, whole or in parts.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace veneer {

// The input of an update: x [N, d_in], dropped out by `seed` and `p` where there is a seed.
struct Dropped {
  at::Tensor x;
  at::Tensor seed = {};
  double p = 0.0;

  // dropout(x), differentiable.
  at::Tensor all() const;
  // For fused paths, without gradients, x contiguous: rows [begin, end) of dropout(x); and dx[begin:] = g with the mask
  // of those rows.
  at::Tensor part(int64_t begin, int64_t end) const;
  void put_part(const at::Tensor& dx, const at::Tensor& g, int64_t begin) const;
  // g [N, d_in] with the mask of all rows, or as it is where there is no seed.
  at::Tensor masked(const at::Tensor& g) const;
};

// The rows of x in strips, at most `row_strips` whatever the number of threads, so that sums over rows do not depend on
// it; each strip in turn in parts of rows that fit into a core's cache together with a few tensors of their size.
// Strips run in parallel; f(begin, end, strip) is called for the parts of a strip one after another. On other devices,
// and where `whole` is asked for, all rows are one part; on meta tensors, and without rows, f is not called.
constexpr int64_t row_strips = 16;
int64_t strips_of(const at::Tensor& x);          // how many there are on a CPU
int64_t strip_rows(const at::Tensor& x);         // of each but the last
at::Tensor over_strips(const at::Tensor& sums);  // the sum [*] of sums [strips, *]: a view of it where there is one
void by_rows(const at::Tensor& x, bool whole, const std::function<void(int64_t, int64_t, int64_t)>& f);

}  // namespace veneer
