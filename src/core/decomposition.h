// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// DoRA (arXiv 2402.09353, eq. 5): the weight W + s M is rescaled row by row to a trained magnitude m, y = g * (W + s M)
// x + b with g = m / n, n = ||W + s M|| taken without gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/prepared.h"
#include "device/thin.h"
#include "veneer/matrix.h"
#include "veneer/method.h"

namespace veneer {

class Decomposition {
 public:
  // `drop_base`: with dropout the rescaled base product sees the dropped input too, as in HF PEFT.
  Decomposition(std::shared_ptr<const Matrix> matrix, double scale, bool drop_base)
      : matrix_(std::move(matrix)), scale_(scale), drop_base_(drop_base) {}

  bool drops_base() const { return drop_base_; }
  // m [d_out], which starts at the norms.
  ParameterSpec magnitude() const;
  void start(const at::Tensor& weight, const Params& params) const;
  // g [d_out] in float32 at least, with m's gradient.
  at::Tensor gain(const at::Tensor& weight, const Params& params) const;

  // The output [N, d_out] composed of differentiable calls: y is the base's, which may be overwritten where it is
  // `owned`, x [N, d_in], `dropped` x after dropout.
  at::Tensor output(const Input& in, const at::Tensor& y, bool owned, const at::Tensor& x, const at::Tensor& dropped,
                    const Params& params) const;

  // As Method::fused_forward and fused_backward, of rows and with the layer's weight in `base`. Kept is the update's,
  // the output before it is rescaled among it, and then n and g.
  std::vector<at::Tensor> forward(const Dropped& x, const Base& base, const Params& params) const;
  std::vector<at::Tensor> backward(const at::Tensor& dy, const Dropped& x, const Base& base, const Params& params,
                                   const std::vector<at::Tensor>& kept, bool wants_x) const;

 private:
  device::RowNorms row_norms(const at::Tensor& weight, const Params& params, const at::Tensor& magnitudes,
                             const std::vector<at::Tensor>& factors = {}) const;
  device::RowNorms rescaling(const at::Tensor& weight, const Params& params,
                             const std::vector<at::Tensor>& factors) const;

  std::shared_ptr<const Matrix> matrix_;
  double scale_;
  bool drop_base_;
};

}  // namespace veneer
