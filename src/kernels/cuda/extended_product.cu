// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/extended_product.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/extended_kernel.cuh"

namespace veneer::kernels::cuda {
namespace {

template <int columns, int cluster, class T>
int64_t tiles(const ExtendedProduct<T>& call) {
  return parts(call.rows, tile_rows * cluster) * parts(call.columns, columns);
}

template <Kind kind, int columns, int cluster, class T>
cudaError_t launch(const ExtendedProduct<T>& call, int processors, cudaStream_t stream) {
  constexpr bool forward = kind == Kind::forward || kind == Kind::gained;
  const auto function = kernel<T, kind, columns, cluster>;
  constexpr int bytes = Layout<columns>::bytes;
  static_assert(bytes <= shared_limit);

  // A body without registers is that of a build without 90a.
  cudaFuncAttributes attributes;
  if (const cudaError_t error = cudaFuncGetAttributes(&attributes, function); error != cudaSuccess) return error;
  if (attributes.numRegs < 64) return cudaErrorNoKernelImageForDevice;
  if (const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      error != cudaSuccess) {
    return error;
  }

  Maps maps{};
  const auto& c = call;
  const bool encoded = encode(&maps.x, c.x, c.rows, c.depth, tile_rows) &&
                       encode(&maps.h, c.h, c.rows, c.rank, tile_rows) &&
                       encode(&maps.y, c.y, c.rows, c.columns, slab) &&
                       (kind != Kind::gained || encode(&maps.plain, c.plain, c.rows, c.columns, slab)) &&
                       (forward ? encode(&maps.w, c.w, c.columns, c.depth, columns / cluster) &&
                                      encode(&maps.p, c.p, c.columns, c.rank, columns / cluster)
                                : encode(&maps.w, c.w, c.depth, c.columns, slab / cluster) &&
                                      encode(&maps.p, c.p, c.rank, c.columns, slab / cluster));
  if (!encoded) return cudaErrorInvalidValue;

  Shape shape;
  shape.rows = static_cast<int>(c.rows);
  shape.columns = static_cast<int>(c.columns);
  shape.blocks = static_cast<int>(parts(c.depth, slab));
  shape.steps = static_cast<int>(parts(c.rank, 16));
  shape.row_tiles = static_cast<int>(parts(c.rows, tile_rows * cluster));
  shape.column_tiles = static_cast<int>(parts(c.columns, columns));

  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  const int64_t clusters = std::min<int64_t>(tiles<columns, cluster>(call), std::max(processors / cluster, 1));
  config.gridDim = dim3(static_cast<unsigned>(clusters * cluster));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, function, maps, More<T>{call.bias, call.gain, call.mask, call.kept_scale}, shape);
}

// `columns` of a tile, or 0: those with the least work for the busiest block.
template <int cluster, class T>
cudaError_t choose(const ExtendedProduct<T>& call, int columns, int processors, cudaStream_t stream) {
  if (columns == 0) {
    const auto work = [&](int64_t count, int64_t width) {
      constexpr int64_t store = 32;  // a tile's start and end, in columns
      return parts(count, std::max(processors / cluster, 1)) * (width + store);
    };
    const int64_t work_256 = work(tiles<256, cluster>(call), 256), work_192 = work(tiles<192, cluster>(call), 192),
                  work_128 = work(tiles<128, cluster>(call), 128);
    const bool masked = call.mask.seed != nullptr;  // 192 columns would lie in two halves of a block of the mask's
    columns = work_256 <= (masked ? work_128 : std::min(work_192, work_128)) ? 256
              : work_192 <= work_128 && !masked                              ? 192
                                                                             : 128;
  }
  const auto sized = [&](auto of_kind) {
    constexpr Kind kind = decltype(of_kind)::value;
    if (columns == 256) return launch<kind, 256, cluster>(call, processors, stream);
    if constexpr (kind != Kind::masked) {
      if (columns == 192) return launch<kind, 192, cluster>(call, processors, stream);
    }
    return launch<kind, 128, cluster>(call, processors, stream);
  };
  if (call.mask.seed != nullptr) return sized(std::integral_constant<Kind, Kind::masked>{});
  if (!call.forward) return sized(std::integral_constant<Kind, Kind::turned>{});
  return call.gain != nullptr ? sized(std::integral_constant<Kind, Kind::gained>{})
                              : sized(std::integral_constant<Kind, Kind::forward>{});
}

template <int cluster, class T>
cudaError_t checked(const ExtendedProduct<T>& call, int columns, void* stream) {
  int device, major, processors;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  constexpr int64_t most = int64_t{1} << 30;
  if (!extended_product_supported(major, call.depth, call.columns, call.rank) || call.rows < 0 || call.rows > most ||
      tiles<128, 1>(call) > most || reinterpret_cast<uintptr_t>(call.bias) % 4 != 0 ||
      reinterpret_cast<uintptr_t>(call.gain) % 8 != 0 || (call.gain != nullptr && !call.forward) ||
      (call.mask.seed != nullptr && (call.forward || !extended_mask_supported(call.columns)))) {
    return cudaErrorInvalidValue;
  }
  if (call.rows == 0) return cudaSuccess;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  return choose<cluster>(call, columns, processors, static_cast<cudaStream_t>(stream));
}

}  // namespace

bool extended_product_built() {
  static const bool built = [] {
    cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, kernel<Bf16, Kind::forward, 256, 2>) == cudaSuccess &&
           attributes.numRegs >= 64;
  }();
  return built;
}

template <class T>
int extended_product(const ExtendedProduct<T>& call, void* stream) {
  return static_cast<int>(checked<2>(call, 0, stream));
}

template int extended_product(const ExtendedProduct<Bf16>&, void*);
template int extended_product(const ExtendedProduct<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
