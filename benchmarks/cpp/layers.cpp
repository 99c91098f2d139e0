// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// One training step of a frozen layer, alone and with adapters: forward and backward, the loss a dot product. The floor
// is the frozen layer's forward and input gradient; an adapter's tax is its time over the floor's, minus one. Run with
//   --benchmark_enable_random_interleaving=true --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
// so that all take turns, and compare medians.
#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include "veneer/veneer.h"

namespace {

enum Adapted { floor_, lora, lora_dropout, circulant };

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(int64_t d) : layer(register_module("layer", veneer::Linear(d, d))) {}
  veneer::Linear layer;
};
TORCH_MODULE(Holder);

Holder make(Adapted adapted, int64_t d) {
  Holder net(d);
  switch (adapted) {
    case floor_:
      for (auto& parameter : net->parameters()) parameter.set_requires_grad(false);
      break;
    case lora: veneer::adapt(*net, veneer::LoraOptions(8), {"layer"}); break;
    case lora_dropout: veneer::adapt(*net, veneer::LoraOptions(8).lora_dropout(0.1), {"layer"}); break;
    case circulant: veneer::adapt(*net, veneer::SurmOptions("circulant"), {"layer"}); break;
  }
  return net;
}

void step(benchmark::State& state, Adapted adapted, at::ScalarType type) {
  torch::manual_seed(0);
  const int64_t tokens = state.range(0), d = state.range(1);
  Holder net = make(adapted, d);
  net->to(type);
  torch::Tensor x = torch::randn({tokens, d}, torch::dtype(type)).requires_grad_();
  const torch::Tensor upstream = torch::randn({tokens, d}, torch::dtype(type));
  std::vector<torch::Tensor> inputs{x};
  for (const auto& parameter : veneer::trainable_parameters(*net)) inputs.push_back(parameter);
  for (auto _ : state) {
    benchmark::DoNotOptimize(torch::autograd::grad({net->layer(x)}, inputs, {upstream}));
  }
  state.SetItemsProcessed(state.iterations() * tokens);
}

void sizes(benchmark::internal::Benchmark* one) {
  one->ArgNames({"tokens", "d"})->Args({512, 384})->Args({512, 768})->Unit(benchmark::kMillisecond)->UseRealTime();
}

BENCHMARK_CAPTURE(step, floor, floor_, at::kFloat)->Apply(sizes);
BENCHMARK_CAPTURE(step, lora, lora, at::kFloat)->Apply(sizes);
BENCHMARK_CAPTURE(step, lora_dropout, lora_dropout, at::kFloat)->Apply(sizes);
BENCHMARK_CAPTURE(step, circulant, circulant, at::kFloat)->Apply(sizes);

}  // namespace
