// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Draws the start of every parameter on the CPU in float32, then converts and moves it: the same numbers on every
// device and in every dtype, and HF PEFT's own numbers where both draw from a generator of the same seed (VeRA).
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <map>
#include <numbers>

#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

at::Tensor draw(const ParameterSpec& spec, const std::optional<at::Generator>& generator) {
  at::Tensor tensor = at::empty(spec.shape, at::dtype(at::kFloat));
  const Initial& initial = spec.initial;
  switch (initial.kind) {
    case Initial::Kind::constant: return tensor.fill_(initial.a);
    case Initial::Kind::normal: return tensor.normal_(initial.a, initial.b, generator);
    case Initial::Kind::uniform: return tensor.uniform_(initial.a, initial.b, generator);
    case Initial::Kind::kaiming_uniform: {
      TORCH_INTERNAL_ASSERT(spec.shape.size() == 2, spec.name, ": kaiming_uniform needs two dimensions");
      const double fan_in = std::max<double>(1.0, static_cast<double>(spec.shape[1]));
      const double bound = std::sqrt(6.0 / ((1.0 + initial.a * initial.a) * fan_in));
      return tensor.uniform_(-bound, bound, generator);
    }
    case Initial::Kind::rotation: {
      auto sizes = spec.shape;
      TORCH_INTERNAL_ASSERT(sizes.size() > 2 && sizes.back() == 2 && *(sizes.end() - 2) == 2, spec.name);
      sizes.resize(sizes.size() - 2);
      constexpr double turn = 2.0 * std::numbers::pi;
      const at::Tensor angle = at::empty(sizes, tensor.options()).uniform_(0.0, turn, generator);
      const at::Tensor c = angle.cos(), s = angle.sin();
      return at::stack({c, -s, s, c}, -1).view(spec.shape);
    }
    case Initial::Kind::derived: return tensor.zero_();
  }
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace

std::vector<at::Tensor> initial_tensors(const ParameterSpecs& specs, at::TensorOptions options) {
  const c10::NoGradGuard no_grad;
  std::map<int64_t, at::Generator> generators;
  std::vector<at::Tensor> tensors;
  for (const auto& spec : specs) {
    if (options.device().is_meta()) {
      tensors.push_back(at::empty(spec.shape, options));
      continue;
    }
    std::optional<at::Generator> generator;
    if (spec.generator_seed) {
      auto [found, fresh] = generators.try_emplace(*spec.generator_seed);
      if (fresh) found->second = at::detail::createCPUGenerator(static_cast<uint64_t>(*spec.generator_seed));
      generator = found->second;
    }
    tensors.push_back(draw(spec, generator).to(options));
  }
  return tensors;
}

std::vector<at::Tensor> initial_parameters(const BoundMethod& bound, const at::Tensor& weight,
                                           at::TensorOptions options, const std::vector<at::Tensor>& shared) {
  const c10::NoGradGuard no_grad;
  const ParameterSpecs own(bound.specs.begin(), bound.specs.begin() + static_cast<int64_t>(bound.own));
  std::vector<at::Tensor> tensors = initial_tensors(own, options);
  std::vector<at::Tensor> all = tensors;
  all.insert(all.end(), shared.begin(), shared.end());
  TORCH_CHECK_VALUE(all.size() == bound.specs.size(), "expected ", bound.specs.size() - bound.own,
                    " shared tensors, got ", shared.size());
  if (weight.defined() && !options.device().is_meta()) bound.method->start(weight, Params(bound.specs, all));
  return tensors;
}

}  // namespace veneer
