// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "ops/scaled_columns.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "core/rescaling.h"
#include "core/routes.h"
#include "ops/takes.h"
#include "veneer/check.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using at::Tensor;
using Forward = Tensor(const Tensor&, const Tensor&);
using Backward = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, bool);

auto forward_op() {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("veneer::scaled_columns", "").typed<Forward>();
  return op;
}

auto backward_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("veneer::scaled_columns_backward", "").typed<Backward>();
  return op;
}

void check(const Tensor& t, const Tensor& l) {
  VENEER_CHECK(t.dim() >= 1 && t.sym_size(-1) == l.sym_numel(), "scaled_columns",
               "expected t [*, d] and d numbers in l, got ", t.sym_sizes(), " and ", l.sym_sizes());
}

Tensor forward(const Tensor& t, const Tensor& l) {
  check(t, l);
  const Tensor all = rows(t).contiguous();
  if (routes_wanted()) {
    add_route(c10::str("l [", l.numel(), "], ", all.size(0), " rows of ", t.scalar_type(), ": one pass each way"));
  }
  return unrows(all.numel() == 0 ? at::empty_like(all) : rescaled(all, column_of(l), {}), t);
}

std::tuple<Tensor, Tensor> backward(const Tensor& dy, const Tensor& t, const Tensor& l, bool wants_t) {
  const Tensor slopes = rows(dy).contiguous();
  const bool none = slopes.numel() == 0;
  const auto found = none ? Rescaled{at::empty_like(slopes), at::zeros_like(column_of(l))}
                          : rescaled_pullback(slopes, rows(t).contiguous(), {}, column_of(l), wants_t);
  return {wants_t ? unrows(found.y, dy) : at::empty({0}, dy.options()), as(found.gain, l).view_as(l)};
}

Tensor meta(const Tensor& t, const Tensor& l) {
  check(t, l);
  return at::empty_like(t, at::MemoryFormat::Contiguous);
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor& dy, const Tensor& /*t*/, const Tensor& l, bool wants_t) {
  return {wants_t ? at::empty_like(dy, at::MemoryFormat::Contiguous) : at::empty({0}, dy.options()), at::empty_like(l)};
}

// The definition.
Tensor composed(const Tensor& t, const Tensor& l) { return as(t * l.flatten(), t); }

class ScaledColumnsFunction : public torch::autograd::Function<ScaledColumnsFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& t, const Tensor& l) {
    context->save_for_backward({l.requires_grad() ? t : Tensor(), l});
    const at::AutoDispatchBelowADInplaceOrView below;
    return forward_op().call(t, l);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &dy = gradients[0], &t = saved[0], &l = saved[1];
    const bool wants_t = context->needs_input_grad(0);
    if (!t.defined()) return {wants_t ? forward_op().call(dy, l) : Tensor(), Tensor()};
    if (at::GradMode::is_enabled()) {  // with create_graph: what can be differentiated again
      const Tensor dl = rows(wide(dy) * wide(t)).sum(0);
      return {wants_t ? scaled_columns(dy, l) : Tensor(), as(dl, l).view_as(l)};
    }
    const at::AutoDispatchBelowADInplaceOrView below;  // what the op calls would pass through autograd for nothing
    auto [dt, dl] = backward_op().call(dy, t, l, wants_t);
    return {wants_t ? dt : Tensor(), dl};
  }
};

Tensor autograd(const Tensor& t, const Tensor& l) { return ScaledColumnsFunction::apply(t, l); }

}  // namespace

Tensor scaled_columns(const Tensor& t, const Tensor& l) {
  return is_wider(l, t) || !takes_op(t, {l}) ? composed(t, l) : forward_op().call(t, l);
}

bool is_wider(const Tensor& l, const Tensor& t) {
  const auto type = wide_type(t.scalar_type());
  return c10::promoteTypes(type, wide_type(l.scalar_type())) != type;
}

Tensor column_of(const Tensor& l) { return wide(l.dim() == 1 ? l : l.flatten()); }

TORCH_LIBRARY_FRAGMENT(veneer, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("scaled_columns(Tensor t, Tensor l) -> Tensor", tags);
  m.def("scaled_columns_backward(Tensor dy, Tensor t, Tensor l, bool wants_t) -> (Tensor, Tensor)", tags);
}
TORCH_LIBRARY_IMPL(veneer, CPU, m) { m.impl("scaled_columns", forward), m.impl("scaled_columns_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, CUDA, m) { m.impl("scaled_columns", forward), m.impl("scaled_columns_backward", backward); }
TORCH_LIBRARY_IMPL(veneer, Meta, m) {
  m.impl("scaled_columns", meta), m.impl("scaled_columns_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(veneer, Autograd, m) { m.impl("scaled_columns", autograd); }

}  // namespace veneer
