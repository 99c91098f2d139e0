// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "kernels/fft.h"

namespace veneer::kernels::cuda {

// Rows are transformed in pairs, 2i and 2i + 1: their rounding errors are relative to the larger of the two, and an
// infinity or NaN in one spoils both.
//
// All tensors are contiguous; rows of d elements. T: float, Bf16, Fp16. A spectrum is the half one, as rfft gives it.
// y = ifft(fft(x) W), row by row
template <class T>
struct CirculantProduct {
  const T* x;               // [n, d]
  const Complex* spectrum;  // [d/2 + 1], W
  T* y;                     // [n, d], not x
  int64_t n;
  int64_t d;
};

// dx = ifft(fft(dy) conj(W)); dspectrum = sum over rows of conj(rfft(x)) rfft(dy)
template <class T>
struct CirculantGradients {
  const T* x;               // [n, d]
  const T* dy;              // [n, d]
  const Complex* spectrum;  // [d/2 + 1]; not read without dx
  T* dx;                    // [n, d], or null
  Complex* dspectrum;       // [d/2 + 1]
  void* workspace;          // circulant_workspace(n, d) bytes, 8-byte aligned
  int64_t n;
  int64_t d;
};

// Whether d has no prime factor above 7 and the current device's shared memory holds its rows (8192 and more from 80
// on).
bool circulant_supported(int64_t d);

// Bytes; they depend on n, d and the number of the current device's multiprocessors alone.
size_t circulant_workspace(int64_t n, int64_t d);

// These launch on `stream` (a cudaStream_t) and return a cudaError_t, 0 on success. Sums run in a fixed order: the same
// call on the same kind of device gives the same bits.
template <class T>
int circulant_product(const CirculantProduct<T>& call, void* stream);
template <class T>
int circulant_gradients(const CirculantGradients<T>& call, void* stream);

}  // namespace veneer::kernels::cuda
