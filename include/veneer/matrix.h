// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "veneer/options.h"
#include "veneer/parameter.h"
#include "veneer/site.h"

namespace veneer {

// Whether a fresh matrix is zero (an additive update, an adapter's up projection) or random (its down projection).
enum class Start { zero, random };

// What a matrix is bound to.
struct MatrixSite {
  int64_t d_in = 0;
  int64_t d_out = 0;
  Start start = Start::zero;
  int64_t layer = -1;  // of the site, see veneer/site.h
  std::string role;
};

// A family of d_out x d_in matrices written with few numbers, bound to its options and sizes. Immutable, so one object
// serves every thread. `dense` is the definition; everything else is an optimisation the generic suite tests against
// it.
class Matrix {
 public:
  explicit Matrix(MatrixSite site) : site_(std::move(site)) {}
  virtual ~Matrix() = default;

  virtual ParameterSpecs parameters() const = 0;
  // The whole matrix, [d_out, d_in].
  virtual at::Tensor dense(const Params& params) const = 0;

  // A product in two steps, both differentiable. `prepare` gives what products need of the parameters and costs the
  // same for any number of rows; `form` says what that is: the dense matrix {M}, two factors {A [r, d_in], B [d_out,
  // r]} of M = B A, or anything else (columns, small factors), which comes with a `product`: x [N, d_in], N at least 1,
  // to x M^T [N, d_out] in x's dtype, each row for itself.
  enum class Form { dense, factors, other };
  virtual Form form() const { return Form::dense; }
  virtual std::vector<at::Tensor> prepare(const Params& params) const { return {dense(params)}; }
  virtual at::Tensor product(const at::Tensor& x, at::TensorList prepared) const;
  // The gradients of `product` from that of its output: of x, undefined where it is not wanted, then of what was
  // prepared, undefined for what is frozen. Called where nothing is recorded; by autograd unless it is written out.
  virtual std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                           bool wants_x) const;
  // Whether `product` and `pullback` go through rows such as these x themselves, part by part on all threads; else
  // fused paths on a CPU call them with a part of the rows at a time.
  virtual bool tiled(const at::Tensor& /*x*/) const { return false; }
  // Whether `pullback` costs more than a product with a dense matrix. Then, for many rows, the gradient of the dense
  // matrix is found first, and `pullback` takes it from there, with d_in rows.
  virtual bool costly() const { return false; }
  // `dense` where nothing is recorded, as fast as it can be had, in time of `product` with d_in rows at most.
  virtual at::Tensor build(const Params& params) const { return dense(params); }
  // weight + scale * M where nothing is recorded, in weight's dtype, likewise: a method with many rows saves the
  // products with M.
  virtual at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const;
  // x [N, d_in] -> x M^T [N, d_out], in x's dtype.
  at::Tensor apply(const at::Tensor& x, const Params& params) const;
  // y + scale * x M^T, in y's dtype; x [N, d_in], y [N, d_out]. `owned`: y may be overwritten.
  at::Tensor accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params, double scale) const;
  // Norms [d_out] of the rows of weight + scale * M, in float32 (float64 for float64 weights); weight [d_out, d_in].
  at::Tensor row_norms(const at::Tensor& weight, const Params& params, double scale) const;

  // The family's own factor on the update (LoRA's alpha / r). Not part of `dense`.
  virtual double scale() const { return 1.0; }
  // Whether it depends on the site's layer and role, not on the sizes alone.
  virtual bool placed() const { return false; }

  int64_t d_in() const { return site_.d_in; }
  int64_t d_out() const { return site_.d_out; }

 protected:
  bool zero_start() const { return site_.start == Start::zero; }

 private:
  MatrixSite site_;
};

using MatrixBinder = std::function<std::shared_ptr<const Matrix>(const Options&, const MatrixSite&)>;

struct MatrixEntry {
  std::string name;
  std::string summary;  // one line: formula
  std::string count;    // number of parameters, as a formula
  std::string source;   // paper
  OptionTable options;
  MatrixBinder bind;
  // Tensors made once per adapter from all matched sites (VeRA). Empty function: none. Appended to the own ones.
  std::function<ParameterSpecs(const Options&, const std::vector<MatrixSite>&)> shared = {};
};

}  // namespace veneer
