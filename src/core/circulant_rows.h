// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products of rows with blocks of circulant matrices on a CPU, tile by tile of sixteen rows
// (kernels/cpu/circulant.h). Without gradients; sums are float32, and the same for any number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer::cpu {

// m x q blocks of size g, cut to d_out x d_in.
struct CirculantShape {
  int64_t m, q, g, d_in, d_out;
};

// Whether rows x are taken: contiguous numbers of 16 or 32 bits, g without prime factors above 7, and tiles and sums of
// blocks that fit into a cache.
bool takes_circulant(const at::Tensor& x, const CirculantShape& shape);

// x [N, d_in] -> [N, d_out] in x's dtype, by spectra [m, q, g / 2 + 1] of the blocks' first columns.
at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& spectra, const CirculantShape& shape);
// From dy [N, d_out] the gradient of x, undefined unless wanted, and the sums over rows of conj(spectrum of x) times
// the spectrum of dy, for each block: [m, q, g / 2 + 1].
std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& spectra, const CirculantShape& shape,
                                                      bool wants_x);

}  // namespace veneer::cpu
