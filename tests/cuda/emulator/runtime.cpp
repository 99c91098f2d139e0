// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The functions of the CUDA runtime that launches of kernels call.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>

#include "machine.h"
#include "tensor_map.h"

namespace emulator {
namespace {

struct Asked {
  int shared = 48 * 1024;
  bool large_clusters = false;
};
std::map<const void*, Asked>& kernels() {
  static std::map<const void*, Asked> all;
  return all;
}

CUresult encode(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                CUtensorMapFloatOOBfill fill) {
  const bool fits = rank == 2 &&
                    (type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16) &&
                    reinterpret_cast<uintptr_t>(map) % 64 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
                    data != nullptr && sizes[0] > 0 && sizes[1] > 0 && sizes[0] >> 32 == 0 && sizes[1] >> 32 == 0 &&
                    strides[0] % 16 == 0 && strides[0] >= sizes[0] * 2 && box[0] == 64 && box[1] > 0 && box[1] <= 256 &&
                    steps[0] == 1 && steps[1] == 1 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
                    swizzle == CU_TENSOR_MAP_SWIZZLE_128B && fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  if (!fits) return CUDA_ERROR_INVALID_VALUE;
  const TensorMap made{static_cast<std::byte*>(data),    static_cast<int64_t>(sizes[0]), static_cast<int64_t>(sizes[1]),
                       static_cast<int64_t>(strides[0]), static_cast<int>(box[0]),       static_cast<int>(box[1])};
  std::memcpy(map, &made, sizeof(made));
  return CUDA_SUCCESS;
}

}  // namespace

// The copy engine writes and reads numbers, not chunks: what is outside the matrix is zeros, or left alone.
void Box::load(Cluster& cluster, uint32_t to) const {
  for (int row = 0; row < map.box_rows; ++row) {
    for (int column = 0; column < map.box_columns; ++column) {
      const int64_t at_row = int64_t{y} + row, at = int64_t{x} + column;
      const bool inside = at_row >= 0 && at_row < map.rows && at >= 0 && at < map.columns;
      std::byte* const there = cluster.memory(swizzled(to + row * 128 + column * 2), 2);
      inside ? std::memcpy(there, map.data + at_row * map.row_bytes + at * 2, 2) : std::memset(there, 0, 2);
    }
  }
}

void Box::store(Cluster& cluster, uint32_t from) const {
  for (int row = 0; row < map.box_rows; ++row) {
    for (int column = 0; column < map.box_columns; ++column) {
      const int64_t at_row = int64_t{y} + row, at = int64_t{x} + column;
      if (at_row < 0 || at_row >= map.rows || at < 0 || at >= map.columns) continue;
      std::memcpy(map.data + at_row * map.row_bytes + at * 2,
                  cluster.memory(swizzled(from + row * 128 + column * 2), 2), 2);
    }
  }
}

Box box_of(const CUtensorMap& map, int x, int y, uint32_t shared) {
  if (shared % 128 != 0) fail("a box in shared memory at an address that is not a multiple of 128");
  Box box{{}, x, y};
  std::memcpy(&box.map, &map, sizeof(TensorMap));
  if (box.map.data == nullptr) fail("a copy by a map that was not made");
  return box;
}

cudaError_t allowed(const cudaLaunchConfig_t& config, const void* kernel, int* cluster) {
  const Asked& asked = kernels()[kernel];
  *cluster = 1;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const auto& dim = config.attrs[i].val.clusterDim;
    if (config.attrs[i].id == cudaLaunchAttributeClusterDimension) *cluster = static_cast<int>(dim.x * dim.y * dim.z);
  }
  const auto threads = int64_t{config.blockDim.x} * config.blockDim.y * config.blockDim.z;
  const bool fits = threads > 0 && threads <= 1024 && config.gridDim.x > 0 && config.gridDim.y > 0 &&
                    config.gridDim.z > 0 && config.gridDim.y < 65536 && config.gridDim.z < 65536 &&
                    config.gridDim.x % *cluster == 0 && (*cluster <= 8 || (asked.large_clusters && *cluster <= 16)) &&
                    static_cast<int64_t>(config.dynamicSmemBytes) <= asked.shared;
  return fits ? cudaSuccess : cudaErrorInvalidConfiguration;
}

void launch(const cudaLaunchConfig_t& config, int size, const char* signature, const std::function<void()>& kernel) {
  static std::mutex one;  // torch has several threads, the device one
  const std::lock_guard<std::mutex> lock(one);
  device().launched += std::string(signature) + "\n";
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  Cluster cluster(config.dynamicSmemBytes, size, kernel);
  // In any order.
  std::vector<int64_t> all(int64_t{gridDim.x} * gridDim.y * gridDim.z / size);
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), std::mt19937_64(device().seed));
  for (const int64_t one : all) cluster.run(one * size);
}

}  // namespace emulator

extern "C" {

cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulator::Device& device = emulator::device();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device.major; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = device.processors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.shared; return cudaSuccess;
    default: return cudaErrorInvalidValue;
  }
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  emulator::Asked& asked = emulator::kernels()[kernel];
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value <= emulator::device().shared) {
    asked.shared = value;
    return cudaSuccess;
  }
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    asked.large_clusters = value != 0;
    return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->numRegs = 128;
  attributes->ptxVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*, const cudaLaunchConfig_t*) {
  *clusters = emulator::device().clusters;
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned int, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  if (std::strcmp(name, "cuTensorMapEncodeTiled") != 0) return cudaErrorInvalidValue;
  *function = reinterpret_cast<void*>(&emulator::encode);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
