// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products of rows with blocks of circulant matrices on a CPU, tile by tile of sixteen rows
// (core/row_convolution.h). Without gradients; sums are float32, and the same for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer::cpu {

// m x q blocks of size g, cut to d_out x d_in; skew-circulant ones where negacyclic.
struct CirculantShape {
  int64_t m, q, g, d_in, d_out;
  bool negacyclic = false;
};

// Whether rows x are taken: contiguous numbers of 16 or 32 bits, g without prime factors above 7, and tiles and sums of
// blocks that fit into a cache.
bool takes_circulant(const at::Tensor& x, const CirculantShape& shape);

// x [N, d_in] -> [N, d_out] in x's dtype, by the blocks' first columns [m, q, g].
at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& columns, const CirculantShape& shape);
// From dy [N, d_out] the gradient of x, undefined unless wanted, and that of the columns: [m, q, g] in float32.
std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& columns, const CirculantShape& shape,
                                                      bool wants_x);

}  // namespace veneer::cpu
