// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What all circulant kernels read and write: pairs of rows as complex numbers, and the filter's spectrum.
#pragma once

#include "kernels/cuda/circulant.h"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

__device__ void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

__device__ void barrier(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// W[k] of the half spectrum, with the inverse transform's 1 / d.
__device__ Complex filter_value(const Complex* spectrum, int k, int d) {
  const Complex w = 2 * k > d ? conj(spectrum[d - k]) : spectrum[k];
  const float scale = 1.0F / static_cast<float>(d);
  return {w.re * scale, w.im * scale};
}

template <class T>
__device__ Complex pair_value(const T* x, int64_t row, int64_t n, int64_t d, int64_t i) {
  const T* at = x + row * d + i;
  return {row < n ? wide(at[0]) : 0.0F, row + 1 < n ? wide(at[d]) : 0.0F};
}

template <class T>
__device__ void store_pair(T* y, int64_t row, int64_t n, int64_t d, int64_t i, Complex value) {
  T* at = y + row * d + i;
  if (row < n) at[0] = narrow<T>(value.re);
  if (row + 1 < n) at[d] = narrow<T>(value.im);
}

}  // namespace
}  // namespace veneer::kernels::cuda
