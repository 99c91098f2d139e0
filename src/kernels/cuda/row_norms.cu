// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_norms.h"

#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int warps = 8;

// A warp has a row: its lanes share the columns, and then the rank.
template <class T, class M>
__global__ void __launch_bounds__(32 * warps) norms(RowNorms<T, M> call) {
  const int lane = static_cast<int>(threadIdx.x) % 32, rank = static_cast<int>(call.rank);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  if (row >= call.rows) return;
  const T* const w = call.weight + row * call.columns;
  float sum = 0;
#pragma unroll 4
  for (int64_t j = lane * Pack<T>::size; j < call.columns; j += 32 * Pack<T>::size) {
    const Pack<T> pack = load(w + j);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) sum = fmaf(wide(pack.at[k]), wide(pack.at[k]), sum);
  }
  const T* const b = call.b + row * rank;
  for (int i = lane; i < rank; i += 32) {
    float inner = 0;
    for (int j = 0; j < rank; ++j) inner = fmaf(wide(call.square[i * rank + j]), wide(b[j]), inner);
    const float slope = 2.0F * wide(call.cross[row * rank + i]) + call.scale * inner;
    sum = fmaf(call.scale * slope, wide(b[i]), sum);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, offset);
  if (lane != 0) return;
  float norm = fmaxf(sqrtf(fmaxf(sum, 0.0F)), call.smallest);
  if (call.magnitudes != nullptr) {
    norm = fmaxf(wide(narrow<M>(norm)), call.smallest);
    call.gains[row] = __fdiv_rn(wide(call.magnitudes[row]), norm);  // one where they are equal
  }
  call.norms[row] = norm;
}

}  // namespace

template <class T, class M>
int row_norms(const RowNorms<T, M>& call, void* stream) {
  if (call.rows == 0) return 0;
  const auto blocks = static_cast<unsigned>((call.rows + warps - 1) / warps);
  norms<<<blocks, 32 * warps, 0, static_cast<cudaStream_t>(stream)>>>(call);
  return static_cast<int>(cudaGetLastError());
}

template int row_norms(const RowNorms<Bf16, Bf16>&, void*);
template int row_norms(const RowNorms<Bf16, float>&, void*);
template int row_norms(const RowNorms<Fp16, Fp16>&, void*);
template int row_norms(const RowNorms<Fp16, float>&, void*);

}  // namespace veneer::kernels::cuda
