// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/row_transform.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/cpu/processor.h"

namespace veneer::kernels::cpu {
namespace {

static_assert(pair == RowTransform::rows);

// Half a tile: up to eight rows into lanes, `half` floats after those of the other half.
VENEER_INLINE void read(const float* x, int64_t n, int64_t width, int64_t stride, float* z) {
  int64_t k = 0;
  for (; k + lanes <= width; k += lanes) {
    Vector v[lanes];
    if (n == lanes) {
      VENEER_UNROLL
      for (int i = 0; i < lanes; ++i) load(v[i], x + i * stride + k);
    } else {
      VENEER_UNROLL
      for (int i = 0; i < lanes; ++i) {
        v[i] = Vector{};
        if (i < n) load(v[i], x + i * stride + k);
      }
    }
    transpose(v);
    VENEER_UNROLL
    for (int i = 0; i < lanes; ++i) store(z + (k + i) * pair, v[i]);
  }
  for (; k < width; ++k) {
    for (int64_t i = 0; i < lanes; ++i) z[k * pair + i] = i < n ? x[i * stride + k] : 0.0F;
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

VENEER_CLONES void read_half(const float* x, int64_t n, int64_t width, int64_t stride, float* z) {
  read(x, n, width, stride, z);
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
    RowPass one{radix, piece, {}};
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
  for (int64_t j = 0; negacyclic && j < length; ++j) {
    const double angle = -std::numbers::pi * static_cast<double>(j) / static_cast<double>(length);
    twist_.push_back(static_cast<float>(std::cos(angle)));
    twist_.push_back(static_cast<float>(std::sin(angle)));
  }
}

void RowTransform::read(const float* x, int64_t n, int64_t width, int64_t stride, float* z) const {
  const int64_t first = n < lanes ? n : lanes;
  read_half(x, first, width, stride, z);
  read_half(x + first * stride, n - first, width, stride, z + lanes);
}

void RowTransform::write(const float* z, float* y, int64_t n, int64_t width, int64_t stride) const {
  const int64_t first = n < lanes ? n : lanes;
  write_half(z, y, first, width, stride);
  write_half(z + lanes, y + first * stride, n - first, width, stride);
}

void RowTransform::forward(float* z, int64_t width) const {
  if (passes_.empty() && width == 0) std::fill(z, z + numbers(), 0.0F);
  forward_passes(begin(), end(), z, width, twist());
}

void RowTransform::inverse(float* z) const { inverse_passes(begin(), end(), z, twist()); }

void RowTransform::pass_on(const RowTransform& there, const float* z, const float* w, bool conjugate, int64_t kept,
                           float* out) const {
  if (passes_.empty()) return multiply(z, w, conjugate, /*accumulate=*/false, out);  // of single numbers
  const int64_t part = length_ / passes_[0].radix;
  for (int64_t i = 0; i < length_; i += part) {
    multiply_cloned(z + i * pair, w + 2 * i, conjugate, /*accumulate=*/false, out + i * pair, part);
    inverse_passes(begin() + 1, end(), out + i * pair, nullptr);
  }
  // Of two twists, which are of one length, nothing is left.
  const bool untwists = there.twist() == nullptr;
  const bool both = twist() != nullptr && !untwists;
  turning_pass(passes_[0], out, kept, both ? nullptr : untwists ? twist() : there.twist(), untwists);
  for (int64_t i = 0; i < length_; i += part) forward_passes(begin() + 1, end(), out + i * pair, part, nullptr);
}

// Of a pair of rows the second is zero.
void RowTransform::spectra(const float* signals, int64_t n, float scale, float* z, float* out) const {
  read(signals, n, length_, length_, z);
  forward(z, length_);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < length_; ++k, out += 2) {
      out[0] = scale * z[k * pair + i];
      out[1] = scale * z[k * pair + lanes + i];
    }
  }
}

void RowTransform::signals(const float* spectra, int64_t n, float scale, float* z, float* out) const {
  for (int64_t i = 0; i < lanes; ++i) {
    for (int64_t k = 0; k < length_; ++k) {
      z[k * pair + i] = i < n ? spectra[2 * (i * length_ + k)] : 0.0F;
      z[k * pair + lanes + i] = i < n ? spectra[2 * (i * length_ + k) + 1] : 0.0F;
    }
  }
  inverse(z);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = 0; k < length_; ++k) *out++ = scale * z[k * pair + i];
  }
}

void RowTransform::multiply(const float* z, const float* w, bool conjugate, bool accumulate, float* out) const {
  multiply_cloned(z, w, conjugate, accumulate, out, length_);
}

void RowTransform::correlate(const float* x, const float* y, float* sums) const {
  correlate_cloned(x, y, sums, length_);
}

void RowTransform::add_lanes(const float* sums, float* out) const { add_lanes_of(sums, out, 2 * length_); }

}  // namespace veneer::kernels::cpu
