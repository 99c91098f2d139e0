// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The thin products of a low-rank update (src/core/thin.h), and the same by the libraries under ATen, on operands that
// are in no cache, as between the products of a layer; of bfloat16 with the suffix _bf16. `GB/s` counts the large
// matrix once.
#include <ATen/ATen.h>
#include <benchmark/benchmark.h>

#include <chrono>

#include "core/thin.h"

namespace {

using veneer::Dropped;

struct Operands {
  at::Tensor x, y, factor, h, seed;
  double p;
  Dropped dropped() const { return p > 0 ? Dropped{x, seed, p} : Dropped{x}; }
};

enum class By { kernels, libraries };

at::Tensor reduce(const Operands& o, By by) {
  return by == By::kernels ? veneer::cpu::reduced(o.dropped(), o.factor, 1.0) : at::mm(o.x, o.factor.t());
}
at::Tensor sum(const Operands& o, By by) {
  return by == By::kernels ? veneer::cpu::summed(o.dropped(), o.h, 1.0, true) : at::mm(o.h.t(), o.x);
}
at::Tensor both(const Operands& o, By by) {
  if (by == By::kernels) return veneer::cpu::reduced_and_summed(o.dropped(), o.factor, o.h, 1.0, 1.0, true).first;
  return at::mm(o.x, o.factor.t()) + at::mm(o.h.t(), o.x).sum();
}
at::Tensor expand(const Operands& o, By by) {
  if (by == By::libraries) return at::mm(o.h, o.factor);
  veneer::cpu::expand_into(o.y, o.h, o.factor, 1.0, o.dropped(), {}, {});
  return o.y;
}

void run(benchmark::State& state, at::Tensor (*product)(const Operands&, By), By by, at::ScalarType type) {
  const int64_t n = state.range(0), d = state.range(1), r = state.range(2);
  const double p = static_cast<double>(state.range(3)) / 100;
  const auto options = at::TensorOptions(type);
  const Operands o{at::randn({n, d}, options), at::empty({n, d}, options),          at::randn({r, d}, options),
                   at::randn({n, r}, options), at::ones({1}, at::dtype(at::kLong)), p};
  at::Tensor cache = at::zeros({int64_t{64} << 20}, at::dtype(at::kByte));
  for (auto _ : state) {
    cache.add_(1);
    const auto begin = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(product(o, by));
    state.SetIterationTime(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(o.x.nbytes()));
}

void sizes(benchmark::internal::Benchmark* one) {
  one->ArgNames({"tokens", "d", "r", "percent_dropped"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int64_t d : {768, 3072}) {
    for (const int64_t r : {8, 16, 32, 64}) one->Args({2048, d, r, 0});
  }
}
void with_dropout(benchmark::internal::Benchmark* one) {
  sizes(one);
  one->Args({2048, 768, 8, 10});
}

#define VENEER_BENCHMARK(product)                                                                           \
  BENCHMARK_CAPTURE(run, product##_kernels, product, By::kernels, at::kFloat)->Apply(with_dropout);         \
  BENCHMARK_CAPTURE(run, product##_libraries, product, By::libraries, at::kFloat)->Apply(sizes);            \
  BENCHMARK_CAPTURE(run, product##_kernels_bf16, product, By::kernels, at::kBFloat16)->Apply(with_dropout); \
  BENCHMARK_CAPTURE(run, product##_libraries_bf16, product, By::libraries, at::kBFloat16)->Apply(sizes)

VENEER_BENCHMARK(reduce);
VENEER_BENCHMARK(sum);
VENEER_BENCHMARK(both);
VENEER_BENCHMARK(expand);

}  // namespace
