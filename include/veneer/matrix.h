// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "veneer/options.h"
#include "veneer/parameter.h"
#include "veneer/site.h"

namespace veneer {

// A family of d_out x d_in matrices written with few numbers, bound to its options and sizes. Immutable, so one object
// serves every thread. `dense` is the definition; everything else is an optimisation the generic suite tests against
// it.
class Matrix {
 public:
  // Whether a fresh matrix is zero (an additive update, an adapter's up projection) or random (its down projection).
  enum class Start { zero, random };

  virtual ~Matrix() = default;

  virtual ParameterSpecs parameters() const = 0;
  // The whole matrix, [d_out, d_in].
  virtual at::Tensor dense(const Params& params) const = 0;
  // x [N, d_in] -> x M^T [N, d_out], in x's dtype.
  virtual at::Tensor apply(const at::Tensor& x, const Params& params) const;
  // y + scale * x M^T, in y's dtype; x [N, d_in], y [N, d_out]. `owned`: y may be overwritten.
  virtual at::Tensor accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                                double scale) const;
  // Norms [d_out] of the rows of weight + scale * M, in float32 (float64 for float64 weights); weight [d_out, d_in].
  virtual at::Tensor row_norms(const at::Tensor& weight, const Params& params, double scale) const;
  // The family's own factor on the update (LoRA's alpha / r). Not part of `dense`.
  virtual double scale() const { return 1.0; }
};

// What a matrix is bound to.
struct MatrixSite {
  int64_t d_in = 0;
  int64_t d_out = 0;
  Matrix::Start start = Matrix::Start::zero;
};

struct MatrixEntry {
  std::string name;
  std::string summary;  // one line: formula
  std::string count;    // number of parameters, as a formula
  std::string source;   // paper
  OptionTable options;
  std::function<std::shared_ptr<const Matrix>(const Options&, const MatrixSite&)> bind;
  // Tensors made once per adapter from all matched sites (VeRA). Empty function: none. Appended to the own ones.
  std::function<ParameterSpecs(const Options&, const std::vector<MatrixSite>&)> shared = {};
};

}  // namespace veneer
