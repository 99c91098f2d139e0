// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What all circulant kernels read and write: pairs of rows as complex numbers, and the filter's spectrum.
#pragma once

#include "kernels/cuda/circulant.h"
#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

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
