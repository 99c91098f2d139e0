// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A layer s (M x + b) inside an adapter, M any structured matrix: composed of differentiable calls, and with its
// gradients written out. x [N, d_in].
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "core/recorded.h"
#include "core/update.h"
#include "veneer/matrix.h"

namespace veneer {

class Projection {
 public:
  // `prefix`: of the names of its parameters among the method's.
  Projection(std::string prefix, std::shared_ptr<const Matrix> matrix, double scale, bool bias)
      : prefix_(std::move(prefix)), matrix_(std::move(matrix)), scale_(scale), bias_(bias) {}

  const Matrix& matrix() const { return *matrix_; }
  double scale() const { return scale_ * matrix_->scale(); }  // of M
  // The matrix's and `bias` [d_out], without prefix.
  ParameterSpecs parameters() const;

  // y + s (M x + b) [N, d_out], differentiable; without y in x's dtype.
  at::Tensor apply(const at::Tensor& x, const Params& params, const at::Tensor& y = {}) const;

  // Without gradients. s b in x's dtype, undefined where there is none.
  at::Tensor bias(const Params& params, const at::Tensor& x) const;
  bool multiplies_dense(const at::Tensor& x, const Params& params) const;
  at::Tensor built(const Params& params) const { return matrix_->build(own(params)); }
  // As Update: y + s (M dropout(x) + b), y contiguous or undefined, and what backward wants; the gradients of all
  // parameters of the method, undefined for those of others, and where it is wanted that of x, to which `residual` is
  // added.
  std::vector<at::Tensor> forward(const Dropped& x, const at::Tensor& y, const Params& params) const;
  std::vector<at::Tensor> backward(const at::Tensor& dy, const Dropped& x, const at::Tensor& residual,
                                   const Params& params, const std::vector<at::Tensor>& kept, bool wants_x) const;

  // Where M is multiplied dense by others: M, and the gradients of the parameters from those of M [d_out, d_in] and of
  // s b [d_out].
  Recorded recorded(const Params& params) const { return {*matrix_, own(params), /*dense=*/true}; }
  std::vector<at::Tensor> gradients(const Recorded& own, const at::Tensor& dense, const at::Tensor& bias,
                                    const Params& params) const;

 private:
  Params own(const Params& params) const { return params.scoped(prefix_); }

  std::string prefix_;
  std::shared_ptr<const Matrix> matrix_;
  double scale_;
  bool bias_;
};

}  // namespace veneer
