// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_norms.h"

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int warps = 8;

constexpr int block_rows = 16;

// A block has sixteen rows, which its warps share by columns, and what A A^T is it finds out on the way: the fragments
// of A that W is multiplied with are those that A is multiplied with. A lane has eight neighbouring columns of rows g
// and g + 8 of each: the order of the terms of a sum is free.
template <class T, class M, int R>
__global__ void __launch_bounds__(32 * warps) norms(RowNorms<T, M> call) {
  constexpr int tiles = R / 16, eights = R / 8, slots = warps / 2;
  // Of a warp: W A^T [16, R], A A^T [R, R], and the rows' squares.
  constexpr int squares_at = block_rows * R, norms_at = squares_at + R * R, numbers = norms_at + block_rows;
  __shared__ float shared[slots][numbers];
  await_order();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int rank = static_cast<int>(call.rank);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * block_rows;

  float cross[eights][4] = {}, square[tiles][eights][4] = {}, norm[2] = {};
#pragma unroll(R <= 16 ? 4 : 2)
  for (int64_t column = warp * 32 + t * 8; column - t * 8 < call.columns; column += 32 * warps) {
    const bool inside = column < call.columns;
    Pack<T> w[2], a[eights];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + g + half * 8;
      w[half] = inside && row < call.rows ? load(call.weight + row * call.columns + column) : Pack<T>{};
    }
#pragma unroll
    for (int i = 0; i < eights; ++i) {
      const int row = i * 8 + g;
      a[i] = inside && row < rank ? load(call.a + row * call.columns + column) : Pack<T>{};
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (const T number : w[half].at) norm[half] = fmaf(wide(number), wide(number), norm[half]);
    }
    const auto word = [](const Pack<T>& pack, int i) { return reinterpret_cast<const uint32_t*>(&pack)[i]; };
    const auto multiply = [&](float(&to)[eights][4], const Pack<T>& upper, const Pack<T>& lower) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const uint32_t left[4] = {word(upper, i), word(lower, i), word(upper, i + 1), word(lower, i + 1)};
#pragma unroll
        for (int j = 0; j < eights; ++j) multiply_add<T>(to[j], left, word(a[j], i), word(a[j], i + 1));
      }
    };
    multiply(cross, w[0], w[1]);
#pragma unroll
    for (int i = 0; i < tiles; ++i) multiply(square[i], a[2 * i], a[2 * i + 1]);
  }

  // The warps' sums as one: two by two, then all.
  const auto each = [&](const auto& f) {
    float* const to = shared[warp % slots];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + half * 8;
#pragma unroll
      for (int j = 0; j < eights; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int column = j * 8 + 2 * t + k;
          f(to[row * R + column], cross[j][2 * half + k]);
#pragma unroll
          for (int i = 0; i < tiles; ++i) {
            f(to[squares_at + (i * 16 + row) * R + column], square[i][j][2 * half + k]);
          }
        }
      }
      float sum = norm[half];
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
      if (t == 0) f(to[norms_at + row], sum);
    }
  };
  if (warp >= slots) each([](float& to, float own) { to = own; });
  __syncthreads();
  if (warp < slots) each([](float& to, float own) { to += own; });
  __syncthreads();
  for (int i = thread; i < numbers; i += 32 * warps) {
    float sum = shared[0][i];
#pragma unroll
    for (int slot = 1; slot < slots; ++slot) sum += shared[slot][i];
    shared[0][i] = sum;
  }
  __syncthreads();

  // Sixteen threads have a row, and share the rank.
  const float* const all = shared[0];
  const int own = thread / 16;
  const int64_t row = first_row + own;
  const T* const b = call.b + min(row, call.rows - 1) * rank;
  float sum = 0;
  for (int i = thread % 16; i < rank; i += 16) {
    float inner = 0;
    for (int j = 0; j < rank; ++j) inner = fmaf(all[squares_at + i * R + j], wide(b[j]), inner);
    const float slope = 2.0F * all[own * R + i] + call.scale * inner;
    sum = fmaf(call.scale * slope, wide(b[i]), sum);
  }
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xFFFFFFFFU, sum, offset);
  if (thread % 16 != 0 || row >= call.rows) return;
  float result = fmaxf(sqrtf(fmaxf(sum + all[norms_at + own], 0.0F)), call.smallest);
  if (call.magnitudes != nullptr) {
    result = fmaxf(wide(narrow<M>(result)), call.smallest);
    call.gains[row] = __fdiv_rn(wide(call.magnitudes[row]), result);  // one where they are equal
  }
  call.norms[row] = result;
}

// A block has a row.
template <class T>
__global__ void __launch_bounds__(32 * warps) scale(const T* weight, int64_t columns, const float* g, T* to) {
  await_order();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * columns;
  const float factor = g[blockIdx.x];
  if (columns % Pack<T>::size != 0) {  // a factor of an update
    for (int64_t j = threadIdx.x; j < columns; j += 32 * warps) {
      to[first + j] = narrow<T>(factor * wide(weight[first + j]));
    }
    return;
  }
#pragma unroll 2
  for (int64_t j = threadIdx.x * Pack<T>::size; j < columns; j += 32 * warps * Pack<T>::size) {
    Pack<T> pack = load(weight + first + j);
#pragma unroll
    for (T& number : pack.at) number = narrow<T>(factor * wide(number));
    store(to + first + j, pack);
  }
}

}  // namespace

template <class T>
int scaled_rows(const T* weight, int64_t rows, int64_t columns, const float* g, T* to, void* stream) {
  if (rows == 0) return 0;
  launch_in_order(scale<T>, static_cast<unsigned>(rows), 32 * warps, 0, static_cast<cudaStream_t>(stream), weight,
                  columns, g, to);
  return static_cast<int>(cudaGetLastError());
}

template int scaled_rows(const Bf16*, int64_t, int64_t, const float*, Bf16*, void*);
template int scaled_rows(const Fp16*, int64_t, int64_t, const float*, Fp16*, void*);

template <class T, class M>
int row_norms(const RowNorms<T, M>& call, void* stream) {
  if (call.rank < 1 || call.rank > row_norms_rank) return static_cast<int>(cudaErrorInvalidValue);
  if (call.rows == 0) return 0;
  const auto blocks = static_cast<unsigned>((call.rows + block_rows - 1) / block_rows);
  const auto kernel = call.rank <= 16 ? norms<T, M, 16> : norms<T, M, 32>;
  launch_in_order(kernel, blocks, 32 * warps, 0, static_cast<cudaStream_t>(stream), call);
  return static_cast<int>(cudaGetLastError());
}

template int row_norms(const RowNorms<Bf16, Bf16>&, void*);
template int row_norms(const RowNorms<Bf16, float>&, void*);
template int row_norms(const RowNorms<Fp16, Fp16>&, void*);
template int row_norms(const RowNorms<Fp16, float>&, void*);

}  // namespace veneer::kernels::cuda
