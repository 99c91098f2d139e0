// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Products with a circulant matrix on a GPU, each in one pass over its rows (kernels/cuda/circulant.h). Without
// gradients; the same from run to run. A spectrum is the half one of the first column, complex float32 [d/2 + 1].
#pragma once

#include <ATen/core/Tensor.h>

namespace veneer::device {

// Whether there are kernels for rows like x's [N, d]: contiguous, on a GPU, of float32 or 16-bit numbers, d without
// prime factors above 7 and not too long for a multiprocessor's shared memory.
bool takes_circulant(const at::Tensor& x);

// [N, d] in x's dtype.
at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& spectrum);
// The gradient of x, in its dtype, where it is wanted; and the sums over rows of conj(rfft(x)) * rfft(dy), [d/2 + 1].
std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& spectrum, bool wants_x);

}  // namespace veneer::device
