// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/row_transform.h"

#include <cmath>
#include <numbers>

#include "kernels/cpu/processor.h"
#include "kernels/cpu/vector.h"
#include "kernels/fft.h"

namespace veneer::kernels::cpu {
namespace {

using Pair = ComplexOf<Vector>;  // one number each of sixteen rows
constexpr int64_t pair = RowTransform::rows;
static_assert(pair == 2 * lanes);

VENEER_INLINE void load_pair(Pair& v, const float* p) {
  load(v.re, p);
  load(v.im, p + lanes);
}
VENEER_INLINE void store_pair(float* p, const Pair& v) {
  store(p, v.re);
  store(p + lanes, v.im);
}
VENEER_INLINE Complex complex(const float* p) { return {p[0], p[1]}; }

// One pass in place, see fft.h.
template <int N, bool inverse>
VENEER_INLINE void pass(float* z, int64_t d, int64_t length, const float* roots) {
  const int64_t part = length / N;
  for (int64_t start = 0; start < d; start += length) {
    for (int64_t offset = 0; offset < part; ++offset) {
      float* const at = z + (start + offset) * pair;
      const float* const w = roots + 2 * int64_t{N - 1} * offset;
      Pair v[N];
      VENEER_UNROLL
      for (int j = 0; j < N; ++j) load_pair(v[j], at + j * part * pair);
      if constexpr (inverse) {
        VENEER_UNROLL
        for (int64_t j = 1; j < N; ++j) v[j] = v[j] * conj(complex(w + 2 * (j - 1)));
        inverse_dft<N>(v);
      } else {
        dft<N>(v);
        VENEER_UNROLL
        for (int64_t j = 1; j < N; ++j) v[j] = v[j] * complex(w + 2 * (j - 1));
      }
      VENEER_UNROLL
      for (int j = 0; j < N; ++j) store_pair(at + j * part * pair, v[j]);
    }
  }
}

template <bool inverse>
VENEER_INLINE void any_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  switch (radix) {
    case 2: return pass<2, inverse>(z, d, length, roots);
    case 3: return pass<3, inverse>(z, d, length, roots);
    case 4: return pass<4, inverse>(z, d, length, roots);
    case 5: return pass<5, inverse>(z, d, length, roots);
    case 8: return pass<8, inverse>(z, d, length, roots);
    default: return pass<7, inverse>(z, d, length, roots);
  }
}

VENEER_CLONES void forward_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  any_pass<false>(radix, z, d, length, roots);
}
VENEER_CLONES void inverse_pass(int radix, float* z, int64_t d, int64_t length, const float* roots) {
  any_pass<true>(radix, z, d, length, roots);
}

// Half a tile: up to eight rows into lanes, `half` floats after those of the other half.
VENEER_INLINE void read(const float* x, int64_t n, int64_t width, int64_t stride, int64_t length, float* z) {
  int64_t k = 0;
  for (; k + lanes <= width; k += lanes) {
    Vector v[lanes];
    for (int64_t i = 0; i < lanes; ++i) v[i] = Vector{};
    if (n == lanes) {
      VENEER_UNROLL
      for (int i = 0; i < lanes; ++i) load(v[i], x + i * stride + k);
    } else {
      for (int64_t i = 0; i < n; ++i) load(v[i], x + i * stride + k);
    }
    transpose(v);
    VENEER_UNROLL
    for (int i = 0; i < lanes; ++i) store(z + (k + i) * pair, v[i]);
  }
  for (; k < length; ++k) {
    for (int64_t i = 0; i < lanes; ++i) z[k * pair + i] = i < n && k < width ? x[i * stride + k] : 0.0F;
  }
}

VENEER_INLINE void write(const float* z, float* y, int64_t n, int64_t width, int64_t stride) {
  int64_t k = 0;
  for (; k + lanes <= width; k += lanes) {
    Vector v[lanes];
    VENEER_UNROLL
    for (int i = 0; i < lanes; ++i) load(v[i], z + (k + i) * pair);
    transpose(v);
    if (n == lanes) {
      VENEER_UNROLL
      for (int i = 0; i < lanes; ++i) store(y + i * stride + k, v[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) store(y + i * stride + k, v[i]);
    }
  }
  for (; k < width; ++k) {
    for (int64_t i = 0; i < n; ++i) y[i * stride + k] = z[k * pair + i];
  }
}

VENEER_CLONES void read_half(const float* x, int64_t n, int64_t width, int64_t stride, int64_t length, float* z) {
  read(x, n, width, stride, length, z);
}
VENEER_CLONES void write_half(const float* z, float* y, int64_t n, int64_t width, int64_t stride) {
  write(z, y, n, width, stride);
}

template <bool conjugate, bool accumulate>
VENEER_INLINE void multiply_all(const float* z, const float* w, float* out, int64_t length) {
  for (int64_t k = 0; k < length; ++k) {
    const Complex factor = conjugate ? conj(complex(w + 2 * k)) : complex(w + 2 * k);
    Pair v;
    load_pair(v, z + k * pair);
    v = v * factor;
    if (accumulate) {
      Pair sum;
      load_pair(sum, out + k * pair);
      v = v + sum;
    }
    store_pair(out + k * pair, v);
  }
}

VENEER_CLONES void multiply_cloned(const float* z, const float* w, bool conjugate, bool accumulate, float* out,
                                   int64_t length) {
  if (conjugate) {
    accumulate ? multiply_all<true, true>(z, w, out, length) : multiply_all<true, false>(z, w, out, length);
  } else {
    accumulate ? multiply_all<false, true>(z, w, out, length) : multiply_all<false, false>(z, w, out, length);
  }
}

VENEER_CLONES void correlate_cloned(const float* x, const float* y, float* sums, int64_t length) {
  for (int64_t k = 0; k < length; ++k) {
    Pair a, b, sum;
    load_pair(a, x + k * pair);
    load_pair(b, y + k * pair);
    load_pair(sum, sums + k * pair);
    sum.re += a.re * b.re + a.im * b.im;
    sum.im += a.re * b.im - a.im * b.re;
    store_pair(sums + k * pair, sum);
  }
}

void add_lanes_of(const float* sums, float* out, int64_t numbers) {
  for (int64_t k = 0; k < numbers; ++k) {
    for (int64_t i = 0; i < lanes; ++i) out[k] += sums[k * lanes + i];
  }
}

}  // namespace

bool RowTransform::takes(int64_t length) { return length > 0 && radices_of(length).complete; }

RowTransform::RowTransform(int64_t length, bool negacyclic) : length_(length) {
  Radices radices;
  int64_t rest = length;
  for (const int radix : {8, 4, 2, 7, 5, 3}) {
    if (radix == 8 && !many_registers()) continue;  // eight numbers and their factors
    for (; rest % radix == 0; rest /= radix) radices.radix[radices.count++] = radix;
  }
  int64_t piece = length;
  for (int i = 0; i < radices.count; ++i) {
    const int radix = radices.radix[i];
    Pass one{radix, piece, {}};
    for (int64_t offset = 0; offset < piece / radix; ++offset) {
      for (int64_t j = 1; j < radix; ++j) {
        const double angle =
            -2.0 * std::numbers::pi * static_cast<double>(offset * j % piece) / static_cast<double>(piece);
        one.roots.push_back(static_cast<float>(std::cos(angle)));
        one.roots.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    passes_.push_back(std::move(one));
    piece /= radix;
  }
  for (int64_t place = 0; place < length; ++place) {
    frequencies_.push_back(frequency(radices, static_cast<int>(length), static_cast<int>(place)));
  }
  for (int64_t j = 0; negacyclic && j < length; ++j) {
    const double angle = -std::numbers::pi * static_cast<double>(j) / static_cast<double>(length);
    twist_.push_back(static_cast<float>(std::cos(angle)));
    twist_.push_back(static_cast<float>(std::sin(angle)));
  }
}

void RowTransform::read(const float* x, int64_t n, int64_t width, int64_t stride, float* z) const {
  const int64_t first = n < lanes ? n : lanes;
  read_half(x, first, width, stride, length_, z);
  read_half(x + first * stride, n - first, width, stride, length_, z + lanes);
}

void RowTransform::write(const float* z, float* y, int64_t n, int64_t width, int64_t stride) const {
  const int64_t first = n < lanes ? n : lanes;
  write_half(z, y, first, width, stride);
  write_half(z + lanes, y + first * stride, n - first, width, stride);
}

void RowTransform::forward(float* z) const {
  if (!twist_.empty()) multiply_cloned(z, twist_.data(), /*conjugate=*/false, /*accumulate=*/false, z, length_);
  for (const Pass& one : passes_) forward_pass(one.radix, z, length_, one.length, one.roots.data());
}

void RowTransform::inverse(float* z) const {
  for (auto one = passes_.rbegin(); one != passes_.rend(); ++one) {
    inverse_pass(one->radix, z, length_, one->length, one->roots.data());
  }
  if (!twist_.empty()) multiply_cloned(z, twist_.data(), /*conjugate=*/true, /*accumulate=*/false, z, length_);
}

void RowTransform::multiply(const float* z, const float* w, bool conjugate, bool accumulate, float* out) const {
  multiply_cloned(z, w, conjugate, accumulate, out, length_);
}

void RowTransform::correlate(const float* x, const float* y, float* sums) const {
  correlate_cloned(x, y, sums, length_);
}

void RowTransform::add_lanes(const float* sums, float* out) const { add_lanes_of(sums, out, 2 * length_); }

}  // namespace veneer::kernels::cpu
