// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A structured update of a linear layer with its gradients written out: what the fused paths of methods are made of.
// Runs below autograd, on tensors that are real or meta, in one dtype but for the parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "core/dropped.h"
#include "core/prepared.h"
#include "veneer/matrix.h"

namespace veneer {

// base + scale * dropout(x) M^T. x is kept by the caller; the update keeps nothing, of factors h = scale * dropout(x)
// A^T [N, r], and computes the rest again.
class Update {
 public:
  Update(const Matrix& matrix, const Params& params, double scale) : matrix_(matrix), params_(params), scale_(scale) {}

  // What was prepared of two factors, in x's dtype where x is real; nothing for other forms. Made once.
  const std::vector<at::Tensor>& factors(const at::Tensor& x) const;

  // Whether rows such as x [N, d_in] are multiplied with the dense matrix, which they may be though it has a structure.
  bool multiplies_dense(const at::Tensor& x) const;

  // The output [N, d_out], a fresh tensor, and after it what backward wants. With a gain [d_out], in float32 at least,
  // what lies above the base's bias is scaled by it, and the output without it comes last.
  std::vector<at::Tensor> forward(const Dropped& x, const Base& base, const at::Tensor& gain = {}) const;

  // From dy [N, d_out], contiguous, the gradients of the tensors of the parameters, in their order and dtypes,
  // undefined for frozen ones; and after them, where it is wanted, that of x, to which base.y [N, d_in] is then added,
  // if it is defined. Where forward had a gain, the gradient of its magnitudes comes last, in float32 at least or as
  // Gain::rounded says.
  std::vector<at::Tensor> backward(const at::Tensor& dy, const Dropped& x, const Base& base,
                                   const std::vector<at::Tensor>& kept, bool wants_x, const Gain& gain = {}) const;

 private:
  // Whether W + scale * M is built, which saves products: for many rows, not for factors of a low rank, whose products
  // cost as little, and not in 16 bits, where a small update would be lost in the sum. `factors`: if the matrix has
  // them.
  bool merges(const Dropped& x, const Base& base, const std::vector<at::Tensor>& factors) const;
  // Which way forward goes, in words.
  std::string route(const Dropped& x, const Base& base, const std::vector<at::Tensor>& factors) const;

  const Matrix& matrix_;
  const Params& params_;
  double scale_;
  mutable std::vector<at::Tensor> factors_;
};

// Sets the gradient of the parameter called `name`, in its dtype, unless it is frozen.
void set_gradient(std::vector<at::Tensor>& gradients, const Params& params, const char* name,
                  const at::Tensor& gradient);

}  // namespace veneer
