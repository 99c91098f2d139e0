// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The two ways in which tiles of rows are multiplied with thin matrices, each with the same members:
//   turned(factor), left(t)   a factor [r, d] and the left side [N, r] of sums, as all tiles want them
//   rows(x, begin, n)         a tile of dropout(x)
//   reduce                    to [n, padded(r)] = rows factor^T
//   sum                       to [r, d] (+)= left[begin : begin + n]^T rows
//   Expansion                 base + bias + scale * h factor, a tile at a time
#pragma once

#include <ATen/ATen.h>

#include "core/tile_rows.h"
#include "core/tiles.h"
#include "kernels/cpu/pair_packing.h"
#include "kernels/cpu/pair_products.h"
#include "kernels/cpu/thin_product.h"
#include "kernels/cpu/vector.h"

namespace veneer::cpu {

// In float32, to which numbers of 16 bits are widened in the cache.
template <class T>
struct Widened {
  static at::Tensor turned(const at::Tensor& factor) { return turned_and_padded(factor, 1.0); }
  static at::Tensor left(const at::Tensor& t) { return as_float(t); }

  static const float* rows(const Dropped& x, int64_t begin, int64_t n) { return rows_of<T>(x, begin, n); }

  static void reduce(const float* rows, int64_t n, int64_t d, const at::Tensor& turned, int64_t width, float* to) {
    kernels::cpu::thin_product({rows, d, 1, in<float>(turned), width, to, width, n, d, width, /*accumulate=*/false});
  }

  static void sum(const at::Tensor& left, int64_t begin, const float* rows, int64_t n, int64_t r, int64_t d, float* to,
                  bool accumulate) {
    kernels::cpu::thin_product({in<float>(left) + begin * r, 1, r, rows, d, to, d, r, n, d, accumulate});
  }

  struct Expansion {
    at::Tensor left, right, bias;  // [N, r], [r, d] and [d], which may be undefined

    Expansion(const at::Tensor& h, const at::Tensor& factor, double scale, const at::Tensor& bias)
        : left(as_float(h)), right(as_float(factor, scale)), bias(bias.defined() ? as_float(bias) : bias) {}

    void operator()(int64_t begin, int64_t n, const T* base, T* to) const {
      const int64_t r = left.size(1), d = right.size(1);
      float* const tile = tile_for(to, n * d, 0);
      if (base != nullptr) kernels::cpu::widen(base, tile, n * d);
      if (bias.defined()) kernels::cpu::add_to_rows(tile, in<float>(bias), n, d, /*accumulate=*/base != nullptr);
      kernels::cpu::thin_product({in<float>(left) + begin * r, r, 1, in<float>(right), d, tile, d, n, r, d,
                                  /*accumulate=*/base != nullptr || bias.defined()});
      put(tile, to, n * d);
    }
  };
};

// As they are, bfloat16, two terms of a sum at once.
struct Paired {
  using Number = kernels::Bf16;
  static_assert(kernels::cpu::pair_group == kernels::cpu::lanes, "padded(r) makes whole groups");

  static bool takes(const at::Tensor& x) {
    return x.scalar_type() == at::kBFloat16 && kernels::cpu::has_pair_products();
  }

  // Rows of t [n, d] two by two: [rows / 2, width, 2], for at least as many rows and columns as t has, zeros beyond.
  static at::Tensor paired(const at::Tensor& t, int64_t rows, int64_t width) {
    const at::Tensor from = t.to(at::kBFloat16).contiguous();
    at::Tensor result = at::zeros({(rows + 1) / 2, width, 2}, from.options());
    kernels::cpu::pair_up(in<Number>(from), from.size(0), from.size(1), width, out<Number>(result));
    return result;
  }

  static at::Tensor turned(const at::Tensor& factor) {
    const at::Tensor from = factor.to(at::kBFloat16).contiguous();
    const int64_t r = from.size(0), d = from.size(1);
    at::Tensor result = at::empty({kernels::cpu::packed_factor(r, d)}, from.options());
    kernels::cpu::pack_factor(in<Number>(from), r, d, out<Number>(result));
    return result;
  }
  static at::Tensor left(const at::Tensor& t) { return t.to(at::kBFloat16).contiguous(); }

  static const Number* rows(const Dropped& x, int64_t begin, int64_t n) { return dropped_rows<Number>(x, begin, n); }

  static void reduce(const Number* rows, int64_t n, int64_t d, const at::Tensor& turned, int64_t width, float* to) {
    kernels::cpu::pair_dots(rows, n, d, in<Number>(turned), width / kernels::cpu::pair_group, to);
  }

  static void sum(const at::Tensor& left, int64_t begin, const Number* rows, int64_t n, int64_t r, int64_t d, float* to,
                  bool accumulate) {
    const int64_t width = padded(r);
    Number* const pairs = room<Number>((n + 1) * width, 1);
    kernels::cpu::pair_up(in<Number>(left) + begin * r, n, r, width, pairs);
    kernels::cpu::pair_sums(pairs, r, rows, n, d, to, accumulate);
  }

  struct Expansion {
    at::Tensor left, right, bias;  // [N, padded(r)], [padded(r) / 2, d, 2], [d]
    double scale;

    Expansion(const at::Tensor& h, const at::Tensor& factor, double scale, const at::Tensor& bias)
        : left(at::constant_pad_nd(h, {0, padded(h.size(1)) - h.size(1)}).to(at::kBFloat16).contiguous()),
          right(paired(factor, left.size(1), factor.size(1))),
          bias(bias.defined() ? as_float(bias) : bias),
          scale(scale) {}

    void operator()(int64_t begin, int64_t n, const Number* base, Number* to) const {
      const int64_t r = left.size(1), d = right.size(1);
      kernels::cpu::pair_expansion({in<Number>(left) + begin * r, in<Number>(right), r / kernels::cpu::pair_group, n, d,
                                    static_cast<float>(scale), bias.defined() ? in<float>(bias) : nullptr, base, to});
    }
  };
};

// f.operator()<T, How>(), T the kernels' type of x's numbers, How one of these two.
template <class F>
void for_tiles_of(const at::Tensor& x, const F& f) {
  if (Paired::takes(x)) return f.template operator()<Paired::Number, Paired>();
  for_type(x, [&]<class T>(T) { f.template operator()<T, Widened<T>>(); });
}

}  // namespace veneer::cpu
