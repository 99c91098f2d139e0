// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Every other size: a pass at a time through shared memory, one row pair a CTA.
#pragma once

#include "kernels/cuda/circulant_rows.cuh"
#include "kernels/cuda/instructions.cuh"

namespace veneer::kernels::cuda {
namespace {

constexpr int general_threads = 256;

template <bool inverse>
__device__ void run_pass(Complex* z, int radix, int length, int d) {
  for (int i = threadIdx.x; i < d / radix; i += blockDim.x) any_butterfly<inverse>(z, i, radix, length);
}

__device__ void transform(Complex* z, const Radices& radices, int d) {
  int length = d;
  for (int pass = 0; pass < radices.count; length /= radices.radix[pass++]) {
    __syncthreads();
    run_pass<false>(z, radices.radix[pass], length, d);
  }
  __syncthreads();
}

__device__ void invert(Complex* z, const Radices& radices, int d) {
  int length = 1;
  for (int pass = radices.count - 1; pass >= 0; --pass) {
    length *= radices.radix[pass];
    __syncthreads();
    run_pass<true>(z, radices.radix[pass], length, d);
  }
  __syncthreads();
}

// Either call: a product is gradients without x.
template <class T>
__global__ void __launch_bounds__(general_threads)
    general_kernel(CirculantGradients<T> call, const __grid_constant__ Radices radices) {
  VENEER_SHARED(Complex, shared);
  const int d = static_cast<int>(call.d);
  const bool product = call.x == nullptr;
  Complex *z = shared, *zx = shared + d;
  auto* frequencies = reinterpret_cast<uint16_t*>(shared + (product ? 1 : 2) * d);
  auto* partial = static_cast<Complex*>(call.workspace) + static_cast<int64_t>(blockIdx.x) * d;
  for (int i = threadIdx.x; i < d; i += blockDim.x) frequencies[i] = static_cast<uint16_t>(frequency(radices, d, i));
  for (int64_t row = 2 * static_cast<int64_t>(blockIdx.x); row < call.n; row += 2 * static_cast<int64_t>(gridDim.x)) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
      z[i] = pair_value(call.dy, row, call.n, d, i);
      if (!product) zx[i] = pair_value(call.x, row, call.n, d, i);
    }
    transform(z, radices, d);
    if (!product) transform(zx, radices, d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
      const int k = frequencies[i];
      if (!product) {
        const Complex term = conj(zx[i]) * z[i];
        partial[k] = row == 2 * static_cast<int64_t>(blockIdx.x) ? term : partial[k] + term;
      }
      if (call.dx == nullptr) continue;
      const Complex w = filter_value(call.spectrum, k, d);
      z[i] = z[i] * (product ? w : conj(w));
    }
    if (call.dx == nullptr) continue;  // the next loads go where this thread has just read
    invert(z, radices, d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) store_pair(call.dx, row, call.n, d, i, z[i]);
  }
}

}  // namespace
}  // namespace veneer::kernels::cuda
