// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Butterflies and index maps of in-place mixed-radix transforms. Torch-free.
//
// d = r1 r2 ... rm. The forward transform splits off the most significant digit first (decimation in frequency) and
// leaves frequency k1 + r1 k2 + r1 r2 k3 + ... at position (k1, ..., km); the inverse undoes it pass by pass. A filter
// between the two only has to be read in that order, so no data is ever permuted. And as every butterfly writes where
// it read, one barrier a pass is enough.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

#include "kernels/seeded_dropout.h"  // VENEER_HOST_DEVICE
#include "kernels/unroll.h"

// Numbers may be vectors of a CPU: what takes them must become part of its caller, see kernels/cpu/clones.h.
#if defined(__CUDACC__)
#define VENEER_FFT __host__ __device__ inline
#else
#define VENEER_FFT [[gnu::always_inline]] inline
#endif

namespace veneer::kernels {

// Real: float, or a vector of as many transforms at once.
template <class Real>
struct alignas(2 * sizeof(Real)) ComplexOf {
  Real re;
  Real im;
};
using Complex = ComplexOf<float>;

template <class Real>
VENEER_FFT ComplexOf<Real> operator+(const ComplexOf<Real>& a, const ComplexOf<Real>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <class Real>
VENEER_FFT ComplexOf<Real> operator-(const ComplexOf<Real>& a, const ComplexOf<Real>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <class Real, class Other>
VENEER_FFT ComplexOf<Real> operator*(const ComplexOf<Real>& a, const ComplexOf<Other>& b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class Real>
VENEER_FFT ComplexOf<Real> conj(const ComplexOf<Real>& a) {
  return {a.re, -a.im};
}

// exp(-2 pi i j / length), 0 <= j < length, in full float accuracy.
VENEER_HOST_DEVICE inline Complex root(int j, int length) {
  const bool upper = 2 * j > length;  // the smaller angle has the smaller rounding error
  const float turns = 2.0F * static_cast<float>(upper ? length - j : j) / static_cast<float>(length);
  Complex w{};
#if defined(__CUDA_ARCH__)
  sincospif(turns, &w.im, &w.re);
#else
  constexpr double pi = 3.14159265358979323846;
  w = {static_cast<float>(std::cos(pi * turns)), static_cast<float>(std::sin(pi * turns))};
#endif
  return upper ? w : conj(w);
}

// The same for the constants inside a butterfly, by their series at compile time.
template <int N>
struct Roots {
  Complex w[N];
  VENEER_HOST_DEVICE constexpr Roots() : w() {
    for (int j = 0; j < N; ++j) {
      const double angle = (2 * j > N ? j - N : j) * -6.28318530717958647692 / N;
      double term = 1, sums[2] = {1, 0};
      for (int i = 1; i < 32; ++i) {
        term *= angle / i;
        sums[i % 2] += i % 4 < 2 ? term : -term;
      }
      w[j] = {static_cast<float>(sums[0]), static_cast<float>(sums[1])};
    }
  }
};

// v[k] = sum_j v[j] exp(-2 pi i j k / N), in registers: every index is known once the loops are unrolled.
template <int N, class Real>
VENEER_FFT void dft(ComplexOf<Real> (&v)[N]) {
  if constexpr (N == 1) {
  } else if constexpr (N == 2) {
    const auto a = v[0];
    v[0] = a + v[1];
    v[1] = a - v[1];
  } else if constexpr (N == 4) {
    const auto a = v[0] + v[2], b = v[0] - v[2], c = v[1] + v[3], d = v[1] - v[3];
    v[0] = a + c;
    v[1] = {b.re + d.im, b.im - d.re};
    v[2] = a - c;
    v[3] = {b.re - d.im, b.im + d.re};
  } else if constexpr (N % 2 == 1) {  // a prime: j and N - j together
    constexpr Roots<N> roots;
    constexpr int half = N / 2;
    ComplexOf<Real> sum[half], difference[half];
    const auto first = v[0];
    VENEER_UNROLL
    for (int j = 0; j < half; ++j) {
      sum[j] = v[j + 1] + v[N - 1 - j];
      difference[j] = v[j + 1] - v[N - 1 - j];
      v[0] = v[0] + sum[j];
    }
    VENEER_UNROLL
    for (int k = 1; k <= half; ++k) {
      ComplexOf<Real> even = first, odd{};
      VENEER_UNROLL
      for (int j = 0; j < half; ++j) {
        const Complex w = roots.w[(j + 1) * k % N];
        even = {even.re + w.re * sum[j].re, even.im + w.re * sum[j].im};
        odd = {odd.re + w.im * difference[j].im, odd.im + w.im * difference[j].re};
      }
      v[k] = {even.re - odd.re, even.im + odd.im};
      v[N - k] = {even.re + odd.re, even.im - odd.im};
    }
  } else {  // A x B, A the stride of the output
    constexpr int A = N % 4 == 0 ? 4 : 2, B = N / A;
    constexpr Roots<N> roots;
    ComplexOf<Real> u[N];
    VENEER_UNROLL
    for (int b = 0; b < B; ++b) {
      ComplexOf<Real> column[A];
      VENEER_UNROLL
      for (int a = 0; a < A; ++a) column[a] = v[a * B + b];
      dft<A>(column);
      VENEER_UNROLL
      for (int c = 0; c < A; ++c) {
        const auto z = column[c];
        if (b * c == 0) {
          u[c * B + b] = z;
        } else if (4 * b * c == N) {  // -i: no multiplication
          u[c * B + b] = {z.im, -z.re};
        } else {
          u[c * B + b] = z * roots.w[b * c];
        }
      }
    }
    VENEER_UNROLL
    for (int c = 0; c < A; ++c) {
      ComplexOf<Real> row[B];
      VENEER_UNROLL
      for (int b = 0; b < B; ++b) row[b] = u[c * B + b];
      dft<B>(row);
      VENEER_UNROLL
      for (int e = 0; e < B; ++e) v[c + A * e] = row[e];
    }
  }
}

// The inverse, N times too large: real and imaginary part change places before and after, which costs nothing.
template <int N, class Real>
VENEER_FFT void inverse_dft(ComplexOf<Real> (&v)[N]) {
  VENEER_UNROLL
  for (int j = 0; j < N; ++j) v[j] = {v[j].im, v[j].re};
  dft<N>(v);
  VENEER_UNROLL
  for (int j = 0; j < N; ++j) v[j] = {v[j].im, v[j].re};
}

// Any d of the factors 2, 3, 5 and 7.
struct Radices {
  int count = 0;
  int radix[16] = {};
  bool complete = true;  // they are all of d
};

inline Radices radices_of(int64_t d) {
  Radices result;
  for (const int radix : {8, 4, 2, 7, 5, 3}) {
    for (; d % radix == 0 && result.count < 16; d /= radix) result.radix[result.count++] = radix;
  }
  result.complete = d == 1;
  return result;
}

VENEER_HOST_DEVICE inline int frequency(const Radices& radices, int d, int position) {
  int k = 0, scale = 1;
  for (int pass = 0; pass < radices.count; ++pass) {
    d /= radices.radix[pass];
    k += position / d * scale;
    position %= d;
    scale *= radices.radix[pass];
  }
  return k;
}

// One butterfly of the pass that splits pieces of `length` into N; a transform has d / N of them.
template <int N, bool inverse>
VENEER_HOST_DEVICE inline void butterfly(Complex* z, int index, int length) {
  const int stride = length / N, offset = index % stride;
  z += index / stride * length + offset;
  const Complex w = inverse ? conj(root(offset, length)) : root(offset, length);
  Complex v[N], power = w;
  VENEER_UNROLL
  for (int j = 0, place = 0; j < N; ++j, place += stride) v[j] = z[place];
  if constexpr (!inverse) dft<N>(v);
  VENEER_UNROLL
  for (int j = 1; j < N; ++j) {
    v[j] = v[j] * power;
    power = power * w;
  }
  if constexpr (inverse) inverse_dft<N>(v);
  VENEER_UNROLL
  for (int j = 0, place = 0; j < N; ++j, place += stride) z[place] = v[j];
}

// The same by its radix, one of radices_of.
template <bool inverse>
VENEER_HOST_DEVICE inline void any_butterfly(Complex* z, int index, int radix, int length) {
  switch (radix) {
    case 2: butterfly<2, inverse>(z, index, length); break;
    case 3: butterfly<3, inverse>(z, index, length); break;
    case 4: butterfly<4, inverse>(z, index, length); break;
    case 5: butterfly<5, inverse>(z, index, length); break;
    case 7: butterfly<7, inverse>(z, index, length); break;
    default: butterfly<8, inverse>(z, index, length);
  }
}

}  // namespace veneer::kernels
