// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

#include "device/dropout.h"
#include "kernels/cpu/seeded_dropout.h"
#include "veneer/check.h"
#include "veneer/dropout.h"

namespace veneer {
namespace {

using at::Tensor;

constexpr double steps = 65536.0;  // 16 bits an element

Tensor dispatched(const Tensor& x, const Tensor& seed, double p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("veneer::seeded_dropout", "")
                             .typed<Tensor(const Tensor&, const Tensor&, double)>();
  return op.call(x, seed, p);
}

void check(const Tensor& x, const Tensor& seed, double p) {
  VENEER_CHECK(p >= 0.0 && p < 1.0, "seeded_dropout", "p must be in 0..1, below 1, got ", p);
  VENEER_CHECK(seed.scalar_type() == at::kLong && seed.sym_numel() == 1, "seeded_dropout",
               "seed must be one int64 number, got ", seed.scalar_type(), " of sizes ", seed.sym_sizes());
  VENEER_CHECK(seed.device() == x.device(), "seeded_dropout", "seed must be on x's device ", x.device(), ", got ",
               seed.device());
}

// The kernels' view of a call. T is the kernel's element type, same size as the tensor's.
template <class T>
kernels::SeededDropout<T> call_of(const Tensor& x, const Tensor& y, const Tensor& seed, double p, int64_t first) {
  return {static_cast<const T*>(x.const_data_ptr()),
          static_cast<T*>(y.mutable_data_ptr()),
          x.numel(),
          seed.const_data_ptr<int64_t>(),
          dropout_threshold(p),
          dropout_scale(p),
          first};
}

template <class T>
void run(const kernels::SeededDropout<T>& call, const Tensor& x) {
  if (device::seeded_dropout(call, x)) return;
  VENEER_CHECK(x.is_cpu(), "seeded_dropout", "this build has no kernel for ", x.device(),
               ": build with nvcc for its compute capability (TORCH_CUDA_ARCH_LIST), or set the dropout to 0");
  constexpr int64_t grain = 1 << 15;
  at::parallel_for(0, call.n, grain,
                   [&](int64_t begin, int64_t end) { kernels::cpu::seeded_dropout(call, begin, end); });
}

// y = dropout(x), both contiguous.
void run(const Tensor& x, const Tensor& y, const Tensor& seed, double p, int64_t first) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && y.is_contiguous() && x.scalar_type() == y.scalar_type());
  switch (x.scalar_type()) {
    case at::kFloat: return run(call_of<float>(x, y, seed, p, first), x);
    case at::kDouble: return run(call_of<double>(x, y, seed, p, first), x);
    case at::kBFloat16: return run(call_of<kernels::Bf16>(x, y, seed, p, first), x);
    case at::kHalf: return run(call_of<kernels::Fp16>(x, y, seed, p, first), x);
    default: VENEER_CHECK(false, "seeded_dropout", "expected a floating-point type, got ", x.scalar_type());
  }
}

Tensor forward(const Tensor& x, const Tensor& seed, double p) {
  check(x, seed, p);
  const Tensor input = x.contiguous();  // the mask goes by position in the logical order
  Tensor y = at::empty_like(input);
  run(input, y, seed, p, 0);
  return y;
}

Tensor meta(const Tensor& x, const Tensor& seed, double p) {
  check(x, seed, p);
  return at::empty_like(x, at::MemoryFormat::Contiguous);
}

// The mask is a function of the seed, so backward is the same op on the gradient, and so is every higher derivative.
class SeededDropoutFunction : public torch::autograd::Function<SeededDropoutFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& seed, double p) {
    context->save_for_backward({seed});
    context->saved_data["p"] = p;
    const at::AutoDispatchBelowADInplaceOrView below;
    return dispatched(x, seed, p);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    return {dispatched(gradients[0], saved[0], context->saved_data["p"].toDouble()), Tensor(), Tensor()};
  }
};

Tensor autograd(const Tensor& x, const Tensor& seed, double p) { return SeededDropoutFunction::apply(x, seed, p); }

}  // namespace

double dropout_probability(double p) { return dropout_threshold(p) / steps; }
uint32_t dropout_threshold(double p) { return static_cast<uint32_t>(std::lround(p * steps)); }
double dropout_scale(double p) { return steps / (steps - dropout_threshold(p)); }

Tensor seeded_dropout(const Tensor& x, const Tensor& seed, double p) {
  return seed.defined() && p > 0.0 ? dispatched(x, seed, p) : x;
}

void seeded_dropout_part(const Tensor& y, const Tensor& x, const Tensor& seed, double p, int64_t first) {
  if (!x.is_meta()) run(x, y, seed, p, first);
}

TORCH_LIBRARY_FRAGMENT(veneer, m) {
  m.def("seeded_dropout(Tensor x, Tensor seed, float p) -> Tensor", {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(veneer, CPU, m) { m.impl("seeded_dropout", forward); }
#if VENEER_WITH_CUDA
TORCH_LIBRARY_IMPL(veneer, CUDA, m) { m.impl("seeded_dropout", forward); }
#endif
TORCH_LIBRARY_IMPL(veneer, Meta, m) { m.impl("seeded_dropout", meta); }
TORCH_LIBRARY_IMPL(veneer, Autograd, m) { m.impl("seeded_dropout", autograd); }

}  // namespace veneer
