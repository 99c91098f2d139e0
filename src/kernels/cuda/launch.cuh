// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Launches. Most are of kernels that follow one another in a stream without a gap between them: from compute capability
// 9.0 on, blocks of the next one start where those of the last have ended, and wait for the rest of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>

namespace veneer::kernels::cuda {

// Whether the kernel, as it is on the current device, has the wait: what newer devices make of an older architecture's
// PTX has not. The driver is asked once for each kernel and device.
inline bool awaits_order(const void* kernel) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, bool> answers;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = answers.find({kernel, device});
  if (known != answers.end()) return known->second;
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return false;
  return answers[{kernel, device}] = attributes.ptxVersion >= 90;
}

inline cudaLaunchAttribute order_attribute() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

// With as much shared memory as it needs.
template <class... Parameters, class... Arguments>
cudaError_t launch_with(cudaLaunchAttribute* attribute, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                        size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  constexpr size_t unasked = 48 * 1024;
  if (shared_bytes > unasked) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = attribute != nullptr ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// After what ran before in the stream has ended.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Arguments&&... arguments) {
  return launch_with(nullptr, kernel, grid, block, shared_bytes, stream, std::forward<Arguments>(arguments)...);
}

// In order, a kernel that begins with await_order (kernels/cuda/instructions.cuh).
template <class... Parameters, class... Arguments>
cudaError_t launch_in_order(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                            cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute = order_attribute();
  return launch_with(awaits_order(reinterpret_cast<const void*>(kernel)) ? &attribute : nullptr, kernel, grid, block,
                     shared_bytes, stream, std::forward<Arguments>(arguments)...);
}

// How clusters of blocks are launched, in order, of a kernel that is only built where it waits.
struct ClusterLaunch {
  cudaLaunchAttribute attributes[2] = {{}, order_attribute()};
  cudaLaunchConfig_t config = {};

  ClusterLaunch(int cluster, int64_t clusters, int threads, int shared_bytes, cudaStream_t stream) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    config.gridDim = dim3(static_cast<unsigned>(clusters * cluster));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = 2;
  }
  ClusterLaunch(const ClusterLaunch&) = delete;
  ClusterLaunch& operator=(const ClusterLaunch&) = delete;
};

}  // namespace veneer::kernels::cuda
