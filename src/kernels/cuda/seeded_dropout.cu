// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/seeded_dropout.h"

namespace veneer::kernels::cuda {
namespace {

__device__ float scaled(float value, double scale) { return value * static_cast<float>(scale); }
__device__ double scaled(double value, double scale) { return value * scale; }
__device__ Bf16 scaled(Bf16 value, double scale) {
  const float wide = __bfloat162float(__ushort_as_bfloat16(value.bits));
  return {__bfloat16_as_ushort(__float2bfloat16_rn(wide * static_cast<float>(scale)))};
}
__device__ Fp16 scaled(Fp16 value, double scale) {
  const float wide = __half2float(__ushort_as_half(value.bits));
  return {__half_as_ushort(__float2half_rn(wide * static_cast<float>(scale)))};
}

template <class T>
__global__ void kernel(SeededDropout<T> call) {
  const auto seed = static_cast<uint64_t>(*call.seed);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < call.n; i += stride) {
    call.y[i] = kept(seed, static_cast<uint64_t>(i), call.threshold) ? scaled(call.x[i], call.scale) : T{};
  }
}

}  // namespace

template <class T>
int seeded_dropout(const SeededDropout<T>& call, void* stream) {
  if (call.n == 0) return 0;
  constexpr int threads = 256;
  constexpr int64_t most_blocks = 65536;
  const int64_t blocks = (call.n + threads - 1) / threads;
  kernel<T><<<static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks), threads, 0,
              static_cast<cudaStream_t>(stream)>>>(call);
  return static_cast<int>(cudaGetLastError());
}

template int seeded_dropout(const SeededDropout<float>&, void*);
template int seeded_dropout(const SeededDropout<double>&, void*);
template int seeded_dropout(const SeededDropout<Bf16>&, void*);
template int seeded_dropout(const SeededDropout<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
