// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of src/kernels/cuda/hopper.h: see there what each function is.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/instructions.cuh"
#include "tensor_map.h"

namespace veneer::kernels::cuda::hopper {

inline void barrier_init(uint32_t barrier, uint32_t arrivals) {
  emulator::Barrier& made = emulator::cluster().barrier(barrier, true);
  made.count = made.pending = static_cast<int>(arrivals);
}

inline void barrier_wait(uint32_t barrier, uint32_t parity) {
  emulator::Barrier& on = emulator::cluster().barrier(barrier);
  emulator::maybe_yield();
  emulator::wait(on.event, "an mbarrier", [&] { return (on.phase & 1) != parity; });
}

inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
  emulator::cluster().barrier(barrier).bytes += bytes;
  emulator::cluster().arrive(barrier);
}

using emulator::address_in;

inline void barrier_arrive(uint32_t barrier) {
  emulator::cluster().arrive(barrier);
  emulator::maybe_yield();
}
inline void barrier_arrive(uint32_t barrier, uint32_t rank) { barrier_arrive(address_in(barrier, rank)); }

inline void barrier_init_fence() {}
inline void cluster_sync() { emulator::cluster().arrive_at_cluster_barrier(); }
inline void warpgroup_sync(int name) { group_sync<128>(name); }

inline void prefetch_map(const CUtensorMap&) {}

inline void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int x, int y, uint16_t blocks) {
  emulator::Cluster& cluster = emulator::cluster();
  const emulator::Box box = emulator::box_of(map, x, y, to);
  for (uint32_t rank = 0; rank < 16; ++rank) {
    if ((blocks >> rank & 1) == 0) continue;
    cluster.later([&cluster, box, at = address_in(to, rank), tell = address_in(barrier, rank)] {
      box.load(cluster, at);
      cluster.complete(tell, box.bytes());
    });
  }
}
inline void load_box(uint32_t to, const CUtensorMap& map, uint32_t barrier, int x, int y) {
  load_box(to, map, barrier, x, y, static_cast<uint16_t>(1U << emulator::running->block->rank));
}

inline void store_box(const CUtensorMap& map, uint32_t from, int x, int y) {
  emulator::Cluster& cluster = emulator::cluster();
  emulator::running->stores.push_back(
      cluster.later([&cluster, from, box = emulator::box_of(map, x, y, from)] { box.store(cluster, from); }));
}
inline void store_commit() { emulator::commit(emulator::running->stores, emulator::running->store_groups); }
template <int pending>
void store_wait_read() {
  emulator::wait_for_groups(emulator::running->store_groups, pending, "stores");
}
inline void async_fence() {}

template <int>
void registers_shrink() {}
template <int>
void registers_grow() {}

inline void write_blocks(uint32_t to, const std::array<uint32_t, 4>& blocks, bool turned) {
  struct Row {
    uint32_t to;
    std::array<uint32_t, 4> blocks;
  };
  const auto all = emulator::exchanged(~0U, Row{to, blocks}, turned ? "stmatrix.trans" : "stmatrix");
  // Each lane writes the row that it names.
  const int lane = emulator::running->lane(), matrix = lane / 8, row = lane % 8;
  for (int column = 0; column < 8; column += 2) {
    const auto number = [&](int y, int x) { return all[y * 4 + x / 2].blocks[matrix] >> (x % 2 * 16) & 0xFFFF; };
    const uint32_t pair = turned ? number(column, row) | number(column + 1, row) << 16
                                 : number(row, column) | number(row, column + 1) << 16;
    emulator::store(to + column * 2, pair);
  }
  emulator::exchange(~0U, nullptr, 0, "the end of stmatrix");
}
inline void store_matrices(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  write_blocks(to, {a, b, c, d}, false);
}
inline void store_turned(uint32_t to, const uint32_t (&from)[4]) {
  write_blocks(to, {from[0], from[1], from[2], from[3]}, true);
}

inline uint64_t matrix_descriptor(uint32_t address, uint32_t leading) {
  constexpr uint64_t eight_rows = 1024, swizzle_128 = 1;
  if (address % 16 != 0) emulator::fail("a matrix at an odd address");
  return ((address & 0x3FFFF) >> 4) | (uint64_t{leading >> 4} << 16) | ((eight_rows >> 4) << 32) | (swizzle_128 << 62);
}

inline void product_fence() {}
inline void product_commit() { emulator::commit_products(); }
template <int pending>
void product_wait() {
  emulator::wait_for_products(pending);
}

template <bool bf16, int columns, bool rows_along_columns>
void product(float (&d)[columns / 2], uint64_t left, uint64_t right, int add) {
  emulator::start_product({columns, bf16, rows_along_columns, emulator::Left::rows, left, right, add != 0}, d, nullptr);
}
template <bool bf16>
void product(float (&d)[64], const uint32_t (&left)[4], uint64_t right, int add) {
  emulator::start_product({128, bf16, true, emulator::Left::registers, 0, right, add != 0}, d, left);
}
template <bool bf16>
void product(float (&d)[16], const uint32_t (&left)[4], uint64_t right, int add) {
  emulator::start_product({32, bf16, false, emulator::Left::registers, 0, right, add != 0}, d, left);
}
template <bool bf16>
void product_of_turned(float (&d)[64], uint64_t left, uint64_t right, int add) {
  emulator::start_product({128, bf16, true, emulator::Left::columns, left, right, add != 0}, d, nullptr);
}
template <bool bf16>
void product_of_turned(float (&d)[16], uint64_t left, uint64_t right, int add) {
  emulator::start_product({32, bf16, false, emulator::Left::columns, left, right, add != 0}, d, nullptr);
}

inline void send(uint32_t to, uint32_t barrier, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  if (to % 16 != 0) emulator::fail("sixteen bytes sent to an odd address");
  emulator::Cluster& cluster = emulator::cluster();
  cluster.later([&cluster, to, barrier, all = std::array{a, b, c, d}] {
    std::memcpy(cluster.memory(to, 16), all.data(), 16);
    cluster.complete(barrier, 16);
  });
}

}  // namespace veneer::kernels::cuda::hopper
