// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of src/kernels/cuda/instructions.cuh: see there what each function is.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/seeded_dropout.h"
#include "machine.h"

#define VENEER_SHARED(type, name) auto* const name = reinterpret_cast<type*>(emulator::shared_memory())

namespace emulator {

inline Cluster& cluster() { return *running->block->cluster; }
inline uint32_t own_base() {
  return address_in(cluster().first_address(), static_cast<uint32_t>(running->block->rank));
}
inline std::byte* shared_memory() { return cluster().memory(own_base(), 0); }

inline uint32_t load(uint32_t address) {
  uint32_t value;
  std::memcpy(&value, cluster().memory(address, 4), 4);
  return value;
}
inline void store(uint32_t address, uint32_t value) { std::memcpy(cluster().memory(address, 4), &value, 4); }

// What lane l gets of four 8 x 8 matrices whose rows the lanes name.
inline uint32_t matrix_pair(const std::array<uint32_t, 32>& rows, int matrix, int row, int column) {
  return load(rows[matrix * 8 + row] + column * 2);
}
inline uint16_t matrix_number(const std::array<uint32_t, 32>& rows, int matrix, int row, int column) {
  return static_cast<uint16_t>(matrix_pair(rows, matrix, row, column / 2 * 2) >> (column % 2 * 16));
}

}  // namespace emulator

namespace veneer::kernels::cuda {

inline uint32_t shared_address(const void* p) { return emulator::cluster().address(p); }
inline uint32_t load_shared(uint32_t from) { return emulator::load(from); }
inline void store_shared(uint32_t to, uint32_t value) { emulator::store(to, value); }

inline void prefetch(const void*) {}

inline void copy_async(void* to, const void* from, bool valid) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulator::fail("a copy of 16 bytes from an odd address");
  const uint32_t address = shared_address(to);
  if (address % 16 != 0) emulator::fail("a copy of 16 bytes to an odd address");
  emulator::Cluster& cluster = emulator::cluster();
  emulator::running->copies.push_back(cluster.later([&cluster, address, from, valid] {
    std::byte* const there = cluster.memory(address, 16);
    valid ? std::memcpy(there, from, 16) : std::memset(there, 0, 16);
  }));
}
inline void copies_commit() { emulator::commit(emulator::running->copies, emulator::running->copy_groups); }
template <int left>
void copies_wait() {
  emulator::wait_for_groups(emulator::running->copy_groups, left, "copies");
}

inline void group_sync(int name, int count) { emulator::sync_threads(name, count); }
template <int count>
void group_sync(int name) {
  emulator::sync_threads(name, count);
}

inline void await_order() {}

template <int count>
void read_below(float (&)[count]) {}

template <bool turned>
void load_blocks(uint32_t (&to)[4], uint32_t address) {
  if (address % 16 != 0) emulator::fail("a row of a matrix at an odd address");
  const auto rows = emulator::exchanged(~0U, address, turned ? "ldmatrix.trans" : "ldmatrix");
  const int lane = emulator::running->lane(), first = lane / 4, second = lane % 4 * 2;
  for (int i = 0; i < 4; ++i) {
    to[i] = turned ? emulator::matrix_number(rows, i, second, first) |
                         static_cast<uint32_t>(emulator::matrix_number(rows, i, second + 1, first)) << 16
                   : emulator::matrix_pair(rows, i, first, second);
  }
  emulator::exchange(~0U, nullptr, 0, "the end of ldmatrix");
}
template <bool turned>
void load_blocks(uint32_t (&to)[4], const void* row) {
  load_blocks<turned>(to, shared_address(row));
}

template <class T>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragment {
    uint32_t a[4], b[2];
  };
  const auto all = emulator::exchanged(~0U, Fragment{{a[0], a[1], a[2], a[3]}, {b0, b1}}, "mma");
  constexpr bool bf16 = std::is_same_v<T, Bf16>;
  const auto left = [&](int row, int k) {
    return emulator::number(bf16, all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2] >> (k % 2 * 16));
  };
  const auto right = [&](int k, int column) {
    return emulator::number(bf16, all[column * 4 + k % 8 / 2].b[k / 8] >> (k % 2 * 16));
  };
  const int lane = emulator::running->lane();
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) sum[i] += left(lane / 4 + i / 2 * 8, k) * right(k, lane % 4 * 2 + i % 2);
  }
}

}  // namespace veneer::kernels::cuda
