// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/extended_product.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/add_up.cuh"
#include "kernels/cuda/extended_kernel.cuh"
#include "kernels/cuda/launch.cuh"

namespace veneer::kernels::cuda {
namespace {

static_assert(extended_sums_rank == row_sums_rank);

template <class T>
bool has_sums(const ExtendedProduct<T>& call) {
  return call.sums.other != nullptr || call.sums.plain != nullptr;
}

// What is summed beside the product; without its room.
template <class T>
More<T> more_of(const ExtendedProduct<T>& call, int processors) {
  More<T> more{call.bias, call.gain, call.gained_bias, call.mask, call.kept_scale, {}, {}};
  const ExtendedSums<T>& sums = call.sums;
  const int64_t workers = int64_t{processors} * summing_warps;
  if (sums.other != nullptr) {
    more.of_other = {sums.other,
                     call.h,
                     call.mask,
                     static_cast<int>(call.rank),
                     RowGroups(call.rows, call.columns, row_sums_width, workers),
                     nullptr};
  }
  if (sums.plain != nullptr) {
    more.of_plain = {call.x, sums.plain, sums.plain_bias, RowGroups(call.rows, call.depth, row_products_width, workers),
                     nullptr};
  }
  return more;
}

template <class T>
void add_up_sums(const ExtendedProduct<T>& call, const More<T>& more, cudaStream_t stream) {
  const ExtendedSums<T>& sums = call.sums;
  const auto of_other = [&](auto* to) {
    const float scale = call.mask.seed != nullptr ? call.kept_scale : 1.0F;
    launch_add_up(more.of_other.parts, more.of_other.groups.count, call.rank, call.columns, {scale}, to, stream);
  };
  if (sums.other != nullptr) {
    sums.rounded_of_other != nullptr ? of_other(sums.rounded_of_other) : of_other(sums.of_other);
  }
  const auto of_plain = [&](auto* to) {
    const Finish finish{1.0F, /*factors=*/nullptr, sums.plain_divisors};
    launch_add_up(more.of_plain.parts, more.of_plain.groups.count, 1, call.depth, finish, to, stream);
  };
  if (sums.plain != nullptr) {
    sums.rounded_of_plain != nullptr ? of_plain(sums.rounded_of_plain) : of_plain(sums.of_plain);
  }
}

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

  if (const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      error != cudaSuccess) {
    return error;
  }

  Maps maps{};
  const auto& c = call;
  const auto encode_two = [&](CUtensorMap* left, const T* x, CUtensorMap* right, const T* w, int64_t depth) {
    return encode(left, x, c.rows, depth, tile_rows) && (forward ? encode(right, w, c.columns, depth, columns / cluster)
                                                                 : encode(right, w, depth, c.columns, slab / cluster));
  };
  const bool updated = c.rank > 0;
  const bool encoded =
      encode_two(&maps.x, c.x, &maps.w, c.w, c.depth) &&
      (updated ? encode_two(&maps.h, c.h, &maps.p, c.p, c.rank) : encode_two(&maps.h, c.x, &maps.p, c.w, c.depth)) &&
      encode(&maps.y, c.y, c.rows, c.columns, slab) &&
      (kind != Kind::gained || encode(&maps.plain, c.plain, c.rows, c.columns, slab));
  if (!encoded) return cudaErrorInvalidValue;

  Shape shape;
  shape.rows = static_cast<int>(c.rows);
  shape.columns = static_cast<int>(c.columns);
  shape.done = updated ? 0 : 1;
  shape.blocks = static_cast<int>(parts(c.depth, slab)) - shape.done;
  shape.steps = static_cast<int>(updated ? parts(c.rank, 16) : slab / 16);
  shape.row_tiles = static_cast<int>(parts(c.rows, tile_rows * cluster));
  shape.column_tiles = static_cast<int>(parts(c.columns, columns));

  const int64_t clusters = std::min<int64_t>(tiles<columns, cluster>(call), std::max(processors / cluster, 1));
  const ClusterLaunch ways(cluster, clusters, threads, bytes, stream);
  More<T> more = more_of(call, processors);
  if (!has_sums(c)) return cudaLaunchKernelEx(&ways.config, function, maps, more, shape);
  more.of_other.parts = static_cast<float*>(c.sums.workspace);
  more.of_plain.parts = more.of_other.parts + more.of_other.numbers();
  if (const cudaError_t error = cudaLaunchKernelEx(&ways.config, function, maps, more, shape); error != cudaSuccess) {
    return error;
  }
  add_up_sums(call, more, stream);
  return cudaGetLastError();
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
      (call.bias != nullptr && !call.forward) ||
      (call.mask.seed != nullptr && (call.forward || call.rank == 0 || !extended_mask_supported(call.columns))) ||
      (call.sums.other != nullptr && call.rank == 0) ||
      (has_sums(call) && (call.forward || !extended_sums_supported(call.rows, call.columns, call.rank)))) {
    return cudaErrorInvalidValue;
  }
  if (call.rows == 0) return cudaSuccess;
  if (!extended_product_built()) return cudaErrorNoKernelImageForDevice;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  return choose<cluster>(call, columns, processors, static_cast<cudaStream_t>(stream));
}

}  // namespace

bool extended_product_built() {
  static const bool built = has_body(kernel<Bf16, Kind::forward, 256, 2>, 64);
  return built;
}

template <class T>
int64_t extended_sums_bytes(const ExtendedProduct<T>& call, int processors) {
  const More<T> more = more_of(call, processors);
  return 4 * (more.of_other.numbers() + more.of_plain.numbers());
}

template <class T>
int extended_product(const ExtendedProduct<T>& call, void* stream) {
  return static_cast<int>(checked<2>(call, 0, stream));
}

template int64_t extended_sums_bytes(const ExtendedProduct<Bf16>&, int);
template int64_t extended_sums_bytes(const ExtendedProduct<Fp16>&, int);
template int extended_product(const ExtendedProduct<Bf16>&, void*);
template int extended_product(const ExtendedProduct<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
