// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What was prepared of a matrix, multiplied: the three ways of Matrix::form, with gradients written out. Without
// gradients recorded.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/dropped.h"
#include "core/gain.h"
#include "veneer/matrix.h"

namespace veneer {

// What is updated, all frozen: the layer x W^T + b, or an output that somebody else made; or nothing, which is zero.
struct Base {
  at::Tensor weight;  // [d_out, d_in], or
  at::Tensor y;       // [N, d_out], contiguous
  at::Tensor bias;    // [d_out], added in any case
};

struct Prepared {
  const Matrix& matrix;
  Matrix::Form form;  // of the tensors: dense too where the dense matrix was made of another
  const std::vector<at::Tensor>& tensors;
  double scale;

  // As Update::forward. Two factors are given in x's dtype.
  std::vector<at::Tensor> forward(const Dropped& x, const Base& base, const at::Tensor& gain) const;
  struct Gradients {
    std::vector<at::Tensor> tensors;
    at::Tensor x;     // with base.y added, where that is the base
    at::Tensor gain;  // of the magnitudes, where all come from one product
  };
  // Whether all gradients come from the layer's own product, which can do that on a GPU.
  bool in_product(const at::Tensor& dy, const Dropped& x, const Base& base) const;
  // From dy [N, d_out] the gradients of the tensors, and that of x where it is wanted. h: what forward kept of two
  // factors. Where there is a gain, the layer's weight has it already, or all come from one product.
  Gradients backward(const at::Tensor& dy, const Dropped& x, const Base& base, const at::Tensor& h, const Gain& gain,
                     bool wants_x) const;

 private:
  // Dense, with the input the thin side.
  bool thin_input() const { return matrix.d_in() <= matrix.d_out(); }
  // Whether the gradient of what was prepared is wanted in dy's dtype.
  bool rounded(size_t i, const at::Tensor& dy) const { return tensors[i].scalar_type() == dy.scalar_type(); }
  std::vector<at::Tensor> by_pullback(const at::Tensor& dy, const Dropped& x, const at::Tensor& gain, bool wants_x,
                                      at::Tensor& dx) const;
};

// Whether a matrix is given all rows at once: on a GPU, or where it goes through them itself, or where the sums of
// gradients, which are held once for each strip, are not small beside x: then products are large too, and ATen's own
// threads serve them.
bool whole(const Matrix& matrix, const std::vector<at::Tensor>& prepared, const at::Tensor& x);
// A forward's output and what it keeps, the output rescaled and the one without the gain last, where there is a gain.
std::vector<at::Tensor> with_gain(std::vector<at::Tensor> result, const at::Tensor& gain, const at::Tensor& bias);

}  // namespace veneer
