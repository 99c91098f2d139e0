// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What both kernels of kernels/cuda/narrow_layer.h read of a call, and what they do between the two products.
#pragma once

#include <cstdint>

#include "kernels/cuda/narrow_layer.h"
#include "kernels/cuda/nonlinearity.cuh"
#include "kernels/cuda/slabs.cuh"

namespace veneer::kernels::cuda {
namespace {

// Besides the maps.
template <class T>
struct Small {
  const T* shift;
  T* z;
  T* dz;
  T* active;
  float* dz_parts;
  // Of shared_rows_kernel.cuh, backward: two of [clusters, m, columns], and [clusters, columns].
  float *up_parts, *down_parts, *dy_parts;
  const T* bias;
  int rows, m, columns;
  int blocks, chunks;  // of 64: of the depth, of the columns
  bool has_base;
  float first_scale, second_scale;
  Nonlinearity nonlinearity;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Where columns 2 pair and 2 pair + 1 of a row are in a slab.
__device__ __forceinline__ uint32_t in_slab(int row, int pair) {
  return row * row_bytes + ((pair / 4) ^ (row % 8)) * 16 + pair % 4 * 4;
}

template <class T>
__device__ __forceinline__ uint32_t load_pair(const T* p) {
  return __ldg(reinterpret_cast<const unsigned int*>(p));
}
template <class T>
__device__ __forceinline__ void store_pair(T* p, uint32_t pair) {
  *reinterpret_cast<uint32_t*>(p) = pair;
}

// z of two neighbouring columns, zeros outside.
template <class T>
__device__ __forceinline__ uint32_t load_z(const Small<T>& call, int row, int pair) {
  const bool valid = row < call.rows && 2 * pair < call.m;  // m is even
  return valid ? load_pair(call.z + static_cast<int64_t>(row) * call.m + 2 * pair) : 0;
}

template <class T>
__device__ __forceinline__ void store_inner(const Small<T>& call, T* to, int row, int pair, uint32_t two) {
  if (to == nullptr || row >= call.rows || 2 * pair >= call.m) return;
  store_pair(to + static_cast<int64_t>(row) * call.m + 2 * pair, two);
}

// The inner numbers of two neighbouring columns, from their sums, also to memory; z is known before, backward.
template <class T, bool forward>
__device__ __forceinline__ float2 finish_pair(const Small<T>& call, int row, int pair, float2 sum, uint32_t known_z) {
  const int column = 2 * pair;
  if (column >= call.m) return {};
  const float2 scaled = {call.first_scale * sum.x, call.first_scale * sum.y};
  if constexpr (forward) {
    float2 z = scaled;
    if (call.shift != nullptr) {
      const float2 shift = unpack<T>(load_pair(call.shift + column));
      z = {z.x + shift.x, z.y + shift.y};
    }
    const uint32_t rounded = pack<T>(z.x, z.y);
    store_inner(call, call.z, row, pair, rounded);
    z = unpack<T>(rounded);  // as backward reads it
    return {activated(call.nonlinearity, z.x), activated(call.nonlinearity, z.y)};
  } else {
    const float2 z = unpack<T>(known_z);
    const float2 dz = {slope(call.nonlinearity, z.x) * scaled.x, slope(call.nonlinearity, z.y) * scaled.y};
    store_inner(call, call.dz, row, pair, pack<T>(dz.x, dz.y));
    return dz;  // zeros beyond the last row, as the sums are
  }
}

template <class T>
__device__ __forceinline__ void write_active(const Small<T>& call, int row, int pair, uint32_t known_z) {
  const int column = 2 * pair;
  if (row >= call.rows || column >= call.m) return;
  const float2 z = unpack<T>(known_z);
  T* const active = call.active + static_cast<int64_t>(row) * (call.m + 8);
  store_pair(active + column, pack<T>(activated(call.nonlinearity, z.x), activated(call.nonlinearity, z.y)));
  if (pair < 4) store_pair(active + call.m + column, pair == 0 ? pack<T>(1.0F, 0.0F) : 0U);
}
#endif

}  // namespace
}  // namespace veneer::kernels::cuda
