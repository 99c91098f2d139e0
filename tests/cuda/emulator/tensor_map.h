// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What cuTensorMapEncodeTiled makes here of a matrix of 16-bit numbers, and the copies of its boxes.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "machine.h"

namespace emulator {

struct TensorMap {
  std::byte* data;
  int64_t columns, rows, row_bytes;  // of the matrix
  int box_columns, box_rows;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

struct Box {
  TensorMap map;
  int x, y;

  int64_t bytes() const { return int64_t{2} * map.box_columns * map.box_rows; }
  void load(Cluster& cluster, uint32_t to) const;
  void store(Cluster& cluster, uint32_t from) const;
};
// Of which `shared` is where it begins in shared memory.
Box box_of(const CUtensorMap& map, int x, int y, uint32_t shared);

}  // namespace emulator
