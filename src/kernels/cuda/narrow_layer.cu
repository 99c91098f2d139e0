// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/narrow_layer.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/narrow_kernel.cuh"

namespace veneer::kernels::cuda {
namespace {

template <bool forward, class T>
cudaError_t launch(const NarrowProduct<T>& c, cudaStream_t stream) {
  const auto function = kernel<T, forward>;
  if (const cudaError_t error =
          cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
      error != cudaSuccess) {
    return error;
  }
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
  const Small<T> small{c.shift,
                       c.z,
                       c.dz,
                       c.active,
                       c.dz_sums,
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
  kernel<T, forward><<<static_cast<unsigned>(parts(c.rows, slab)), threads, shared_bytes, stream>>>(maps, small);
  return cudaGetLastError();
}

// A body without registers is that of a build without 90a.
bool built() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel<Bf16, true>) == cudaSuccess && attributes.numRegs >= 48;
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
  return call.forward ? launch<true>(call, stream) : launch<false>(call, stream);
}

}  // namespace

bool narrow_product_built() {
  static const bool found = built();
  return found;
}

template <class T>
int narrow_product(const NarrowProduct<T>& call, void* stream) {
  return static_cast<int>(checked(call, static_cast<cudaStream_t>(stream)));
}

template int narrow_product(const NarrowProduct<Bf16>&, void*);
template int narrow_product(const NarrowProduct<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
