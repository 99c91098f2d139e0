// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Sums of products of two convolutions: y = the sum over r of C2_r C1_r x, with signals cut to a length n between the
// two and at both ends. What matrices of low displacement rank and products of Toeplitz matrices are.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/convolution.h"

namespace veneer {

class ConvolutionChain {
 public:
  // Of one length, n or more.
  ConvolutionChain(Convolution first, Convolution second, int64_t n);

  // x [N, up to n] -> [N, width], width up to n, by the signals [R, *] that are convolved with; in x's dtype.
  at::Tensor product(const at::Tensor& x, const at::Tensor& first, const at::Tensor& second, int64_t width) const;
  // From dy [N, up to n] the gradients of x (undefined unless wanted), and of both (undefined where neither requires
  // one; a view that was made without autograd does not say so).
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& first,
                                   const at::Tensor& second, bool wants_x) const;
  // Whether tiles of rows on a CPU go through all of it where no gradient is recorded: nothing is then written between
  // the two.
  bool tiled(const at::Tensor& x) const;

 private:
  Convolution first_, second_;
  int64_t n_;
};

}  // namespace veneer
