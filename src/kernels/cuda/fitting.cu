// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/fitting.h"

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int block = 256, each = 4;  // threads, and numbers of one

template <class From, class T>
__host__ __device__ int64_t threads_for(const Fitting<From, T>& call) {
  return (call.to_rows * call.to_columns + each - 1) / each;
}

template <class N>
struct alignas(each * sizeof(N)) Four {
  N at[each];
};

// `count` numbers at most, and zeros behind them.
template <class N>
__device__ Four<N> load_four(const N* from, int64_t count) {
  if (count >= each && reinterpret_cast<uintptr_t>(from) % sizeof(Four<N>) == 0) {
    return *reinterpret_cast<const Four<N>*>(from);
  }
  Four<N> to{};
#pragma unroll
  for (int k = 0; k < each; ++k) {
    if (k < count) to.at[k] = from[k];
  }
  return to;
}

template <class From, class T>
__device__ void fit(const Fitting<From, T>& call, int64_t begin) {
  const int64_t left = call.to_rows * call.to_columns - begin;
  if (left <= 0) return;
  int64_t place = begin, there = call.rows * call.columns - begin;  // where the numbers come from, and how many are
  if (call.columns != call.to_columns) {
    const int64_t row = begin / call.to_columns, column = begin % call.to_columns;
    place = row * call.columns + column, there = row < call.rows ? call.columns - column : 0;
  }
  const Four<From> four = load_four(call.from + place, there);
  if (left >= each) {
    *reinterpret_cast<uint2*>(call.to + begin) = {pair<T>(wide(four.at[0]), wide(four.at[1])),
                                                  pair<T>(wide(four.at[2]), wide(four.at[3]))};
    return;
  }
#pragma unroll
  for (int k = 0; k < each; ++k) {
    if (k < left) call.to[begin + k] = narrow<T>(wide(four.at[k]));
  }
}

template <class From, class T>
__global__ void __launch_bounds__(block) fit_kernel(Fitting<From, T> first, Fitting<From, T> second) {
  await_order();
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * block + threadIdx.x, others = threads_for(first);
  thread < others ? fit(first, thread * each) : fit(second, (thread - others) * each);
}

template <class From, class T>
bool fits(const Fitting<From, T>& call) {
  return call.rows <= call.to_rows &&
         (call.columns == call.to_columns || (call.columns < call.to_columns && call.to_columns % each == 0));
}

}  // namespace

template <class From, class T>
int fit_two(const Fitting<From, T>& first, const Fitting<From, T>& second, void* stream) {
  if (!fits(first) || !fits(second)) return cudaErrorInvalidValue;
  const int64_t threads = threads_for(first) + threads_for(second);
  if (threads == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((threads + block - 1) / block);
  return static_cast<int>(
      launch_in_order(fit_kernel<From, T>, blocks, block, 0, static_cast<cudaStream_t>(stream), first, second));
}

template int fit_two(const Fitting<float, Bf16>&, const Fitting<float, Bf16>&, void*);
template int fit_two(const Fitting<float, Fp16>&, const Fitting<float, Fp16>&, void*);
template int fit_two(const Fitting<Bf16, Bf16>&, const Fitting<Bf16, Bf16>&, void*);
template int fit_two(const Fitting<Fp16, Fp16>&, const Fitting<Fp16, Fp16>&, void*);

}  // namespace veneer::kernels::cuda
