// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Small conversions shared by matrices and methods. ATen only; symbolic sizes throughout, so that one compiled graph
// serves every batch size.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer {

// float32 for 16-bit types, else the type itself: what FFTs, norms and merges are computed in.
at::ScalarType wide_type(at::ScalarType type);
at::Tensor wide(const at::Tensor& t);
// t in `like`'s dtype.
at::Tensor as(const at::Tensor& t, const at::Tensor& like);

// x [*, d] -> [N, d] ([d] -> [1, d]); a view where the strides allow it.
at::Tensor rows(const at::Tensor& x);
// y [N, d_out] -> [*, d_out] with the leading sizes of x.
at::Tensor unrows(const at::Tensor& y, const at::Tensor& x);

}  // namespace veneer
