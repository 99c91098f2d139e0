// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Included before each file of kernels, which a compiler for the CPU then takes: the words and functions of CUDA C++
// that its headers leave out for such a compiler. Kernels are those of compute capability 9.0a.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>

#include "machine.h"

#define __CUDA_ARCH_FEAT_SM90_ALL
#undef __shared__
#define __shared__ static  // blocks of kernels without clusters run one after another

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline

#define threadIdx (emulator::running->index)
#define blockIdx (emulator::running->block->index)
using emulator::blockDim;
using emulator::gridDim;

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }

inline void __syncthreads() { emulator::sync_threads(0, 0); }
inline void __syncwarp(unsigned mask = ~0U) { emulator::exchange(mask, nullptr, 0, "__syncwarp"); }

template <class V>
V __shfl_sync(unsigned mask, V value, int lane, int width = 32) {
  const int first = emulator::running->lane() / width * width;
  return emulator::exchanged(mask, value, "__shfl_sync")[first + lane % width];
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int lanes) {
  return emulator::exchanged(mask, value, "__shfl_xor_sync")[emulator::running->lane() ^ lanes];
}

template <class V>
V __ldg(const V* p) {
  return *p;
}
template <class V>
V __ldcs(const V* p) {
  return *p;
}

inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(both >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
  return result;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
using std::max;
using std::min;

namespace emulator {

cudaError_t allowed(const cudaLaunchConfig_t& config, const void* kernel, int* cluster);
// `signature` names the kernel's parameters.
void launch(const cudaLaunchConfig_t& config, int cluster, const char* signature, const std::function<void()>& kernel);

template <class... Parameters>
const char* signature() {
  return __PRETTY_FUNCTION__;
}

template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  int cluster = 1;
  if (const cudaError_t error = allowed(*config, reinterpret_cast<const void*>(kernel), &cluster);
      error != cudaSuccess) {
    return error;
  }
  const std::tuple<std::remove_const_t<Parameters>...> all(std::forward<Arguments>(arguments)...);
  launch(*config, cluster, signature<Parameters...>(), [&] { std::apply(kernel, all); });
  return cudaSuccess;
}
template <class Kernel>
cudaError_t kernel_attribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  return ::cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class Kernel>
cudaError_t kernel_attributes(cudaFuncAttributes* attributes, Kernel* kernel) {
  return ::cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class Kernel>
cudaError_t active_clusters(int* clusters, Kernel* kernel, const cudaLaunchConfig_t* config) {
  return ::cudaOccupancyMaxActiveClusters(clusters, reinterpret_cast<const void*>(kernel), config);
}

}  // namespace emulator

#define cudaLaunchKernelEx emulator::launch_kernel
#define cudaFuncSetAttribute emulator::kernel_attribute
#define cudaFuncGetAttributes emulator::kernel_attributes
#define cudaOccupancyMaxActiveClusters emulator::active_clusters
