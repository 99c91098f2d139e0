// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the CPU's kernels over tiles of rows share: numbers of 16 and 32 bits, and room for a tile.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/dropped.h"
#include "device/plain.h"
#include "kernels/cpu/convert.h"

namespace veneer::cpu {

// Whether x [N, d], N and d at least 1, is contiguous in the memory of a CPU, of numbers that float32 holds.
inline bool takes_rows(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return device::on_cpu(x) && x.dim() == 2 && (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) &&
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

// Room for a tile of one thread, kept for its next one; there are a few, by number. It begins with a line of the cache,
// which vectors would else straddle.
template <class T>
T* room(int64_t numbers, size_t which) {
  struct alignas(64) Line {
    T numbers[64 / sizeof(T)];
  };
  static thread_local std::vector<Line> rooms[4];
  auto& room = rooms[which];
  const auto lines = static_cast<size_t>(numbers * int64_t{sizeof(T)} + 63) / 64;
  if (room.size() < lines) room.resize(lines);
  return reinterpret_cast<T*>(room.data());
}

// Numbers as float32: themselves, or in a room.
template <class T>
const float* widened(const T* from, int64_t numbers, size_t which) {
  if constexpr (std::is_same_v<T, float>) {
    return from;
  } else {
    float* const to = room<float>(numbers, which);
    kernels::cpu::widen(from, to, numbers);
    return to;
  }
}

// Where float32 numbers are written that are to be those at `to`: there, or in a room, from which `put` takes them.
template <class T>
float* tile_for(T* to, int64_t numbers, size_t which) {
  if constexpr (std::is_same_v<T, float>) {
    return to;
  } else {
    return room<float>(numbers, which);
  }
}
template <class T>
void put(const float* tile, T* to, int64_t numbers) {
  if constexpr (!std::is_same_v<T, float>) kernels::cpu::narrow(tile, to, numbers);
}

// One of at most `rows` rows from `begin` on.
struct Tile {
  int64_t begin, rows, strip;  // of strip: see by_rows
  bool first;                  // in its strip
};

// f(tile) for tile after tile.
template <class F>
void by_tiles(const at::Tensor& x, int64_t rows, const F& f) {
  const int64_t strip_length = strip_rows(x);
  by_rows(x, false, [&](int64_t begin, int64_t end, int64_t strip) {
    for (int64_t i = begin; i < end; i += rows) f(Tile{i, std::min(rows, end - i), strip, i == strip * strip_length});
  });
}

}  // namespace veneer::cpu
