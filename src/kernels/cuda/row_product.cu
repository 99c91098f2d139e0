// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/row_product.h"

#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/narrow_kernel.cuh"

namespace veneer::kernels::cuda {
namespace {

template <bool turned, class T>
cudaError_t launch(const RowProduct<T>& c, cudaStream_t stream) {
  Maps maps{};
  if (!encode(&maps.x, c.x, c.rows, c.depth, slab) ||
      !(turned ? encode(&maps.first, c.factor, c.depth, c.rank, slab)
               : encode(&maps.first, c.factor, c.rank, c.depth, slab))) {
    return cudaErrorInvalidValue;
  }
  Small<T> small{};
  small.z = c.h;
  small.rows = static_cast<int>(c.rows), small.m = static_cast<int>(c.rank);
  small.blocks = static_cast<int>(parts(c.depth, slab));
  small.first_scale = c.scale;
  return launch_in_order(kernel<T, !turned, /*whole=*/false>, static_cast<unsigned>(parts(c.rows, slab)), threads,
                         shared_bytes, stream, maps, small);
}

template <class T>
cudaError_t checked(const RowProduct<T>& call, cudaStream_t stream) {
  if (!row_product_built()) return cudaErrorNoKernelImageForDevice;
  if (!narrow_product_supported(9, call.depth, 0, call.rank) || call.rows < 0) return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  return call.turned ? launch<true>(call, stream) : launch<false>(call, stream);
}

}  // namespace

bool row_product_built() {
  static const bool found = has_body(kernel<Bf16, true, false>, 48);
  return found;
}

template <class T>
int row_product(const RowProduct<T>& call, void* stream) {
  return static_cast<int>(checked(call, static_cast<cudaStream_t>(stream)));
}

template int row_product(const RowProduct<Bf16>&, void*);
template int row_product(const RowProduct<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
