// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/decomposition.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "core/update.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

// Rows of zeros have no direction; the same bound at the start and in forward keeps m / n at exactly one.
constexpr double smallest_norm = 1e-12;

}  // namespace

ParameterSpec Decomposition::magnitude() const {
  return {"magnitude", {matrix_->d_out()}, Initial::derived(), "lora_magnitude_vector.{adapter}"};
}

void Decomposition::start(const at::Tensor& weight, const Params& params) const {
  params["magnitude"].copy_(row_norms(weight, params, {}, Update(*matrix_, params, scale_).factors(weight)).norms);
}

// The norms n [d_out], in float32 at least; by a GPU's kernels where it has them and the factors are given. With
// magnitudes m, n is rounded as m was when it started, so that the gains are then exactly one in 16-bit adapters too.
device::RowNorms Decomposition::row_norms(const at::Tensor& weight, const Params& params, const at::Tensor& magnitudes,
                                          const std::vector<at::Tensor>& factors) const {
  const c10::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);  // its products would be 16-bit
  const at::Tensor w = weight.detach();
  if (!factors.empty() && device::takes_row_norms(w, factors[0].size(0), magnitudes)) {
    return device::row_norms(w, factors[0], factors[1], scale_, smallest_norm, magnitudes);
  }
  const at::Tensor norms = matrix_->row_norms(w, params, scale_).clamp_min(smallest_norm);
  if (!magnitudes.defined()) return {norms, {}};
  const bool exact = magnitudes.scalar_type() == norms.scalar_type();
  const at::Tensor rounded = exact ? norms : wide(as(norms, magnitudes)).clamp_min(smallest_norm);
  return {rounded, wide(magnitudes) / rounded};
}

device::RowNorms Decomposition::rescaling(const at::Tensor& weight, const Params& params,
                                          const std::vector<at::Tensor>& factors) const {
  const at::Tensor m = params["magnitude"].detach();
  if (!weight.is_meta()) return row_norms(weight, params, m, factors);
  // Meta tensors of symbolic sizes cannot be cast.
  const at::Tensor empty = at::empty_symint(m.sym_sizes(), m.options().dtype(wide_type(m.scalar_type())));
  return {empty, at::empty_like(empty)};
}

at::Tensor Decomposition::gain(const at::Tensor& weight, const Params& params) const {
  const at::Tensor& m = params["magnitude"];
  return wide(m) / row_norms(weight, params, m).norms;
}

at::Tensor Decomposition::output(const Input& in, const at::Tensor& y, bool owned, const at::Tensor& x,
                                 const at::Tensor& dropped, const Params& params) const {
  const at::Tensor g = gain(in.weight, params);
  if (dropped.is_same(x) || !drop_base_) {
    // As `rescaled`, differentiable.
    const at::Tensor sum = matrix_->accumulate(y, owned, dropped, params, scale_) * g;
    return as(in.bias.defined() ? sum + (1.0 - g) * in.bias : sum, y);
  }
  // HF PEFT's semantics: the rescaled part of the base product sees the dropped input too.
  const at::Tensor base = at::linear(dropped, in.weight);
  return as(y + matrix_->accumulate(base, false, dropped, params, scale_) * g - base, y);
}

std::vector<at::Tensor> Decomposition::forward(const Dropped& x, const Base& base, const Params& params) const {
  const Update update(*matrix_, params, scale_);
  const auto [n, gain] = rescaling(base.weight, params, update.factors(x.x));
  std::vector<at::Tensor> kept = update.forward(x, base, gain);
  kept.insert(kept.end(), {n, gain});
  return kept;
}

std::vector<at::Tensor> Decomposition::backward(const at::Tensor& dy, const Dropped& x, const Base& base,
                                                const Params& params, const std::vector<at::Tensor>& kept,
                                                bool wants_x) const {
  const Update update(*matrix_, params, scale_);
  if (dy.is_meta()) return update.backward(dy, x, base, kept, wants_x);
  const at::Tensor &y = kept.end()[-3], &n = kept.end()[-2], &gain = kept.back();
  const bool rounded = params["magnitude"].scalar_type() == y.scalar_type();
  auto gradients = update.backward(dy, x, base, kept, wants_x, {gain, y, n, rounded});
  set_gradient(gradients, params, "magnitude", gradients.back());
  gradients.pop_back();
  return gradients;
}

}  // namespace veneer
