// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/seeded_dropout.h"

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

// A block of threads takes a block of elements: one key, one word a thread, two elements a word.
template <class T>
__global__ void kernel(SeededDropout<T> call) {
  using Wide = decltype(wide(T{}));
  const auto seed = static_cast<uint64_t>(*call.seed);
  const auto scale = static_cast<Wide>(call.scale);
  const int64_t first = call.first / dropout_block, last = (call.first + call.n - 1) / dropout_block;
  for (int64_t block = first + blockIdx.x; block <= last; block += gridDim.x) {
    const uint32_t word = random_word(block_key(seed, static_cast<uint64_t>(block)), threadIdx.x);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t i = block * dropout_block + half * dropout_words + threadIdx.x - call.first;
      if (i < 0 || i >= call.n) continue;
      const bool keep = ((word >> (16 * half)) & 0xFFFFU) >= call.threshold;
      const Wide value = keep ? wide(call.x[i]) * scale : Wide(0);
      call.y[i] = narrow<T>(value);
    }
  }
}

}  // namespace

template <class T>
int seeded_dropout(const SeededDropout<T>& call, void* stream) {
  if (call.n == 0) return 0;
  constexpr int64_t most_blocks = 65536;
  const int64_t blocks = call.n / dropout_block + 2;  // one more at either end
  return launch(kernel<T>, static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks), dropout_words, 0,
                static_cast<cudaStream_t>(stream), call);
}

template int seeded_dropout(const SeededDropout<float>&, void*);
template int seeded_dropout(const SeededDropout<double>&, void*);
template int seeded_dropout(const SeededDropout<Bf16>&, void*);
template int seeded_dropout(const SeededDropout<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
