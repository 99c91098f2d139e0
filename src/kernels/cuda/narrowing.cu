// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/narrowing.h"

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int block = 256, each = 4;  // threads, and numbers of one

__host__ __device__ int64_t threads_for(int64_t numbers) { return (numbers + each - 1) / each; }

template <class T>
__global__ void __launch_bounds__(block) narrow_kernel(Narrowing<T> call) {
  await_order();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * block + threadIdx.x;
  const int64_t first = threads_for(call.numbers[0]);
  const bool second = i >= first;
  // Not by an index: parameters that are indexed are copied to a thread's own memory first.
  const float* const from = second ? call.from[1] : call.from[0];
  T* const to = second ? call.to[1] : call.to[0];
  const int64_t numbers = second ? call.numbers[1] : call.numbers[0], begin = (second ? i - first : i) * each;
  if (begin + each <= numbers) {
    const float4 wide = *reinterpret_cast<const float4*>(from + begin);
    *reinterpret_cast<uint2*>(to + begin) = {pair<T>(wide.x, wide.y), pair<T>(wide.z, wide.w)};
  } else {
    for (int64_t k = begin; k < numbers; ++k) to[k] = narrow<T>(from[k]);
  }
}

}  // namespace

template <class T>
int narrow_two(const Narrowing<T>& call, void* stream) {
  const int64_t threads = threads_for(call.numbers[0]) + threads_for(call.numbers[1]);
  if (threads == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((threads + block - 1) / block);
  return static_cast<int>(launch_in_order(narrow_kernel<T>, blocks, block, 0, static_cast<cudaStream_t>(stream), call));
}

template int narrow_two(const Narrowing<Bf16>&, void*);
template int narrow_two(const Narrowing<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
