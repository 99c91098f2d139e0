// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The nonlinearities of adapter layers, and their slopes.
#pragma once

#include "kernels/cuda/narrow_layer.h"

namespace veneer::kernels::cuda {
namespace {

constexpr float root_half = 0.70710678118654752F, root_two_over_pi = 0.79788456080286536F, cubic = 0.044715F;

__device__ __forceinline__ float activated(Nonlinearity kind, float z) {
  switch (kind) {
    case Nonlinearity::gelu: return 0.5F * z * (1.0F + erff(z * root_half));
    case Nonlinearity::gelu_tanh: return 0.5F * z * (1.0F + tanhf(root_two_over_pi * (z + cubic * z * z * z)));
    case Nonlinearity::relu: return z <= 0.0F ? 0.0F : z;
    case Nonlinearity::silu: return z / (1.0F + __expf(-z));
    default: return tanhf(z);
  }
}

__device__ __forceinline__ float slope(Nonlinearity kind, float z) {
  switch (kind) {
    case Nonlinearity::gelu: {
      constexpr float density = 0.39894228040143268F;  // 1 / sqrt(2 pi)
      return 0.5F * (1.0F + erff(z * root_half)) + z * density * __expf(-0.5F * z * z);
    }
    case Nonlinearity::gelu_tanh: {
      const float t = tanhf(root_two_over_pi * (z + cubic * z * z * z));
      return 0.5F * (1.0F + t) + 0.5F * z * (1.0F - t * t) * root_two_over_pi * (1.0F + 3.0F * cubic * z * z);
    }
    case Nonlinearity::relu: return z <= 0.0F ? 0.0F : 1.0F;
    case Nonlinearity::silu: {
      const float s = 1.0F / (1.0F + __expf(-z));
      return s * (1.0F + z * (1.0F - s));
    }
    default: {
      const float t = tanhf(z);
      return 1.0F - t * t;
    }
  }
}

}  // namespace
}  // namespace veneer::kernels::cuda
