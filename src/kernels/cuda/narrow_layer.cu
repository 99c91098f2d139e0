// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/narrow_layer.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/narrow_kernel.cuh"
#include "kernels/cuda/per_device.h"
#include "kernels/cuda/shared_rows_kernel.cuh"
#include "kernels/cuda/shared_rows_total.cuh"

namespace veneer::kernels::cuda {
namespace {

// Depths from which on clusters are faster than blocks that read x twice.
constexpr int64_t smallest_shared = 1025;

template <class T>
Small<T> small_of(const NarrowProduct<T>& c) {
  return {c.shift,
          c.z,
          c.dz,
          c.active,
          c.dz_parts,
          /*up_parts=*/nullptr,
          /*down_parts=*/nullptr,
          /*dy_parts=*/nullptr,
          c.bias,
          static_cast<int>(c.rows),
          static_cast<int>(c.m),
          static_cast<int>(c.columns),
          static_cast<int>(parts(c.depth, slab)),
          static_cast<int>(parts(c.columns, slab)),
          c.base != nullptr,
          c.first_scale,
          c.second_scale,
          c.nonlinearity};
}

template <bool forward, class T>
cudaError_t launch(const NarrowProduct<T>& c, cudaStream_t stream) {
  Maps maps{};
  bool encoded =
      encode(&maps.x, c.x, c.rows, c.depth, slab) &&
      (forward ? encode(&maps.first, c.first, c.m, c.depth, slab) : encode(&maps.first, c.first, c.depth, c.m, slab));
  if (encoded && c.columns > 0) {
    encoded = (forward ? encode(&maps.second, c.second, c.columns, c.m, slab)
                       : encode(&maps.second, c.second, c.m, c.columns, slab)) &&
              (c.base == nullptr || encode(&maps.base, c.base, c.rows, c.columns, slab)) &&
              encode(&maps.y, c.y, c.rows, c.columns, slab);
  }
  if (!encoded) return cudaErrorInvalidValue;
  return launch_in_order(kernel<T, forward>, static_cast<unsigned>(parts(c.rows, slab)), threads, shared_bytes, stream,
                         maps, small_of(c));
}

// A launch of clusters that share tiles of rows (shared_rows_kernel.cuh).
template <class T, bool forward, int cluster>
struct SharedRows {
  static constexpr auto function = shared_rows::kernel<T, forward, cluster>;

  static ClusterLaunch launch(int64_t clusters, cudaStream_t stream = nullptr) {
    using P = shared_rows::Plan<forward>;
    return {cluster, clusters, P::threads, P::shared_bytes, stream};
  }
  static cudaError_t allow() {
    const cudaError_t error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   shared_rows::Plan<forward>::shared_bytes);
    if (error != cudaSuccess || cluster <= 8) return error;
    return cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
};

// How many clusters the call's launch has, 0 where it is none of clusters.
template <bool forward, int cluster, class T>
int64_t clusters_of(const NarrowProduct<T>& call) {
  using Launch = SharedRows<T, forward, cluster>;
  static PerDevice fit;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  const int most = fit.of(device, [] {
    const ClusterLaunch launch = Launch::launch(1);
    int found = 0;
    const bool known = Launch::allow() == cudaSuccess &&
                       cudaOccupancyMaxActiveClusters(&found, Launch::function, &launch.config) == cudaSuccess;
    if (!known) cudaGetLastError();
    return known ? found : PerDevice::unknown;
  });
  return std::clamp<int64_t>(most, 0, parts(call.rows, shared_rows::tile_rows));
}

template <class T>
void add_up_sums(const NarrowProduct<T>& c, const Small<T>& small, int clusters, int blocks, cudaStream_t stream) {
  const auto to = [&](const auto& sums) {
    using To = std::remove_pointer_t<decltype(sums.up)>;
    launch_total(shared_rows::Total<To>{small.up_parts, small.down_parts, small.dy_parts, small.dz_parts, clusters,
                                        blocks, small.m, small.columns, c.first_scale, c.second_scale, sums},
                 stream);
  };
  c.rounded_sums.up != nullptr ? to(c.rounded_sums) : to(c.sums);
}

template <bool forward, int cluster, class T>
cudaError_t launch_shared(const NarrowProduct<T>& c, cudaStream_t stream) {
  using Launch = SharedRows<T, forward, cluster>;
  const auto is_given = [](const auto& sums) { return sums.up != nullptr && sums.down != nullptr; };
  const bool has_sums = c.workspace != nullptr && c.input != nullptr && (is_given(c.sums) || is_given(c.rounded_sums));
  if (!forward && !has_sums) return cudaErrorInvalidValue;
  if (const cudaError_t error = Launch::allow(); error != cudaSuccess) return error;
  constexpr int high = shared_rows::tile_rows;
  shared_rows::Maps maps{};
  const bool encoded =
      encode(&maps.x, c.x, c.rows, c.depth, high) && encode(&maps.y, c.y, c.rows, c.columns, high) &&
      (forward
           ? encode(&maps.first, c.first, c.m, c.depth, slab) && encode(&maps.second, c.second, c.columns, c.m, slab)
           : encode(&maps.first, c.first, c.depth, c.m, slab) && encode(&maps.second, c.second, c.m, c.columns, slab) &&
                 encode(&maps.z, c.z, c.rows, c.m, high) && encode(&maps.input, c.input, c.rows, c.columns, high));
  if (!encoded) return cudaErrorInvalidValue;
  const int64_t clusters = clusters_of<forward, cluster>(c);
  Small<T> small = small_of(c);
  if (!forward) {
    small.up_parts = static_cast<float*>(c.workspace);
    small.down_parts = small.up_parts + clusters * c.m * c.depth;
    float* const others = small.down_parts + clusters * c.m * c.depth;
    if (c.sums.x != nullptr || c.rounded_sums.x != nullptr) small.dy_parts = others;
    const bool sums_dz = c.sums.dz != nullptr || c.rounded_sums.dz != nullptr;
    small.dz_parts = sums_dz ? others + clusters * c.depth : nullptr;
  }
  const ClusterLaunch launch = Launch::launch(clusters, stream);
  const auto tiles = static_cast<int>(parts(c.rows, high));
  const auto own_slabs = static_cast<int>(parts(parts(c.depth, slab), cluster));
  const cudaError_t error = cudaLaunchKernelEx(&launch.config, Launch::function, maps, small, tiles, own_slabs);
  if (forward || error != cudaSuccess) return error;
  add_up_sums(c, small, static_cast<int>(clusters), static_cast<int>(clusters * cluster), stream);
  return cudaGetLastError();
}

// f with the call's direction and the blocks of a cluster that hold its rows, or with 0 blocks: the other kernel.
template <class T, class F>
auto with_cluster(const NarrowProduct<T>& call, const F& f) {
  const auto sized = [&](auto forward) {
    constexpr bool way = decltype(forward)::value;
    const auto tried = [&](auto cluster) {
      return call.depth <= cluster * shared_rows::Plan<way>::slabs * slab && clusters_of<way, cluster>(call) > 0;
    };
    if (call.base == call.x && call.depth == call.columns && (way || call.bias == nullptr) &&
        call.depth >= smallest_shared) {
      if constexpr (way) {
        if (tried(std::integral_constant<int, 4>{})) return f(forward, std::integral_constant<int, 4>{});
      }
      if (tried(std::integral_constant<int, 8>{})) return f(forward, std::integral_constant<int, 8>{});
      if constexpr (!way) {
        if (tried(std::integral_constant<int, 16>{})) return f(forward, std::integral_constant<int, 16>{});
      }
    }
    return f(forward, std::integral_constant<int, 0>{});
  };
  return call.forward ? sized(std::true_type{}) : sized(std::false_type{});
}

template <class T>
cudaError_t checked(const NarrowProduct<T>& call, cudaStream_t stream) {
  int device, major;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  constexpr int64_t most = int64_t{1} << 30;
  if (!narrow_product_supported(major, call.depth, call.columns, call.m) || call.rows < 0 || call.rows > most) {
    return cudaErrorInvalidValue;
  }
  if (!narrow_product_built()) return cudaErrorNoKernelImageForDevice;
  if (call.rows == 0) return cudaSuccess;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  return with_cluster(call, [&](auto forward, auto cluster) {
    if constexpr (cluster == 0) {
      return launch<forward>(call, stream);
    } else {
      return launch_shared<forward, cluster>(call, stream);
    }
  });
}

}  // namespace

bool narrow_product_built() {
  static const bool found = has_body(kernel<Bf16, true>, 48);
  return found;
}

template <class T>
int narrow_product(const NarrowProduct<T>& call, void* stream) {
  return static_cast<int>(checked(call, static_cast<cudaStream_t>(stream)));
}

template <class T>
int64_t narrow_sums_bytes(const NarrowProduct<T>& call) {
  return with_cluster(call, [&](auto forward, auto cluster) -> int64_t {
    if constexpr (forward || cluster == 0) {
      return 0;
    } else {
      const int64_t clusters = clusters_of<forward, cluster>(call);
      return clusters * ((2 * call.m + 1) * call.depth + cluster * call.m) * static_cast<int64_t>(sizeof(float));
    }
  });
}

template int64_t narrow_sums_bytes(const NarrowProduct<Bf16>&);
template int64_t narrow_sums_bytes(const NarrowProduct<Fp16>&);
template int narrow_product(const NarrowProduct<Bf16>&, void*);
template int narrow_product(const NarrowProduct<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
