// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the CPU's kernels over tiles of rows share: numbers of 16 and 32 bits, and room for a tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/dropped.h"
#include "kernels/cpu/convert.h"

namespace veneer::cpu {

// Whether x [N, d], N and d at least 1, is contiguous in the memory of a CPU, of numbers that float32 holds.
inline bool takes_rows(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return x.is_cpu() && x.dim() == 2 && (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) &&
         x.numel() > 0 && x.is_contiguous();
}

// f(T()), T the kernels' type of the numbers of such a tensor.
template <class F>
void for_type(const at::Tensor& t, const F& f) {
  switch (t.scalar_type()) {
    case at::kFloat: return f(float());
    case at::kBFloat16: return f(kernels::Bf16());
    default: return f(kernels::Fp16());
  }
}

template <class T>
const T* in(const at::Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(const at::Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Room for a tile of one thread, kept for its next one; there are a few, by number.
template <class T>
T* room(int64_t numbers, size_t which) {
  static thread_local std::vector<T> rooms[3];
  auto& room = rooms[which];
  if (std::ssize(room) < numbers) room.resize(static_cast<size_t>(numbers));
  return room.data();
}

// n rows of x from `begin` on as float32, in x itself or in a room.
template <class T>
const float* wide_rows(const at::Tensor& x, int64_t begin, int64_t n, size_t which) {
  const int64_t d = x.size(1);
  if constexpr (std::is_same_v<T, float>) {
    return in<float>(x) + begin * d;
  } else {
    float* const to = room<float>(n * d, which);
    kernels::cpu::widen(in<T>(x) + begin * d, to, n * d);
    return to;
  }
}

// f(first, rows, strip) for tile after tile of at most `rows` rows, see by_rows.
template <class F>
void by_tiles(const at::Tensor& x, int64_t rows, const F& f) {
  by_rows(x, false, [&](int64_t begin, int64_t end, int64_t strip) {
    for (int64_t i = begin; i < end; i += rows) f(i, std::min(rows, end - i), strip);
  });
}

}  // namespace veneer::cpu
