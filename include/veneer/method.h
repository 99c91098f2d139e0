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

// What a method sees in one call.
struct Input {
  at::Tensor x;  // [*, d_in]: the layer's input; at a hidden site the state z the adapter reads
  at::Tensor y;  // [*, d_out]: the base's output, or the residual of a hidden site; undefined: the method runs the base
  at::Tensor weight;  // [d_out, d_in], frozen; undefined where the base's weight cannot be reached
  at::Tensor bias;    // [d_out], frozen, or undefined
  at::Tensor seed;    // int64 [1] while training with dropout, else undefined
};

// How a frozen layer is changed: pure functions of (input, base weight, parameters), bound to options and one site.
// Immutable; one object serves every thread.
class Method {
 public:
  // How several active adapters on one layer act together.
  enum class Composition { additive, scaling, exclusive };

  virtual ~Method() = default;

  // The layer's own tensors.
  virtual ParameterSpecs parameters() const = 0;
  // Sets the `derived` tensors from the base weight, in place, without gradient. `weight` is [d_out, d_in].
  virtual void start(const at::Tensor& /*weight*/, const Params& /*params*/) const {}
  // The layer's output, [*, d_out], from `in` and the parameters.
  virtual at::Tensor forward(const Input& in, const Params& params) const = 0;
  // The input the base is to be called with when the host calls it (input-side scalings); forward then gets the y of
  // that call. Only called where changes_input().
  virtual at::Tensor input(const at::Tensor& x, const Params& /*params*/) const { return x; }
  virtual bool changes_input() const { return false; }

  // The effective weight and bias, so that linear(x, weight, bias) equals forward in eval. Only where mergeable().
  virtual bool mergeable() const { return false; }
  virtual std::string merge_refusal() const { return "it has no effective weight"; }
  virtual at::Tensor weight(const at::Tensor& weight, const Params& params) const;
  virtual at::Tensor bias(const at::Tensor& bias, const Params& /*params*/) const { return bias; }

  // A fast path with its own gradient, one node in the graph, which the generic suite holds to `forward`. For methods
  // whose output has slope one in y, at a base that is frozen. Called below autograd, with x, y, weight and bias in one
  // dtype, real or meta, and x and y as contiguous rows [N, d].
  virtual bool fused(const Input& /*in*/) const { return false; }  // whether it serves this call
  // The output [N, d_out], a fresh tensor, and after it what backward wants besides the call's own tensors.
  virtual std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const;
  // From dy [N, d_out], contiguous, the gradients of the parameters, in the order of their specs and in their dtypes,
  // undefined for those that are frozen or have none, and then that of x [N, d_in] where it is wanted. `in` has x,
  // weight, bias and seed, of the base only where the method ran it; and where the call's y was x itself, a y that is
  // dy: x then has that gradient too. `kept` as fused_forward left it.
  virtual std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                                 const std::vector<at::Tensor>& kept, bool wants_x) const;

  virtual Composition composition() const { return Composition::exclusive; }
  virtual bool needs_weight() const { return false; }  // forward reads Input::weight even when y is given
  virtual bool placed() const { return false; }        // depends on the site's layer and role, not on sizes alone
  virtual double dropout() const { return 0.0; }       // above 0: the host draws a seed for each training call
};

struct MethodEntry {
  std::string name;
  std::string summary;
  std::string count;
  std::string source;
  std::vector<SiteKind> sites;
  OptionTable options;
  std::function<std::shared_ptr<const Method>(const Options&, const Site&)> bind;
  // Tensors made once per adapter from all matched sites; appended to the own ones. Empty function: none.
  std::function<ParameterSpecs(const Options&, const std::vector<Site>&)> shared = {};
};

}  // namespace veneer
