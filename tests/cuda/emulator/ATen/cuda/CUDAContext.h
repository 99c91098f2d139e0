// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of torch's: what src/device asks of a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include "machine.h"

namespace at::cuda {

struct DeviceProperties {
  int major, multiProcessorCount;
  size_t sharedMemPerBlockOptin;
};
inline const DeviceProperties* getCurrentDeviceProperties() {
  static DeviceProperties properties;
  const emulator::Device& device = emulator::device();
  properties = {device.major, device.processors, static_cast<size_t>(device.shared)};
  return &properties;
}
inline const DeviceProperties* getDeviceProperties(int) { return getCurrentDeviceProperties(); }

struct Stream {
  cudaStream_t stream() const { return nullptr; }
};
inline Stream getCurrentCUDAStream() { return {}; }

}  // namespace at::cuda
