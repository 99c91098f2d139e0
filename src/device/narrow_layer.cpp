// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/narrow_layer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/activation.h"
#include "device/launch.h"
#include "kernels/cuda/narrow_layer.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

cuda::Nonlinearity nonlinearity(const std::string& name) {
  const auto& names = activations();
  return static_cast<cuda::Nonlinearity>(std::find(names.begin(), names.end(), name) - names.begin());
}

template <class T>
cuda::NarrowProduct<T> product(const NarrowLayer& layer, const at::Tensor& x, const at::Tensor& z) {
  cuda::NarrowProduct<T> call{};
  call.x = in<T>(x), call.rows = x.size(0), call.depth = x.size(1);
  call.z = out<T>(z), call.m = z.size(1);
  call.nonlinearity = nonlinearity(layer.activation);
  return call;
}

at::Tensor scaled(const at::Tensor& t, double scale) { return scale == 1.0 ? t : t * scale; }

}  // namespace

bool takes_narrow(const at::Tensor& x, int64_t m, int64_t d_out) {
  constexpr int64_t fewest = 512;  // a block has 64 of them, and goes through both matrices alone
  if (!on_gpu(x) || x.dim() != 2 || !takes_16_bit(x.scalar_type()) || !is_aligned(x) || x.size(0) < fewest ||
      !cuda::narrow_product_supported(at::cuda::getDeviceProperties(x.get_device())->major, x.size(1), d_out, m) ||
      !cuda::narrow_product_supported(9, d_out, x.size(1), m)) {
    return false;
  }
  const c10::cuda::CUDAGuard guard(x.device());
  return cuda::narrow_product_built();
}

NarrowLayer::Output narrow_forward(const NarrowLayer& layer, const at::Tensor& x, const at::Tensor& base) {
  const c10::cuda::CUDAGuard guard(x.device());
  const at::Tensor y = at::empty({x.size(0), layer.up.size(0)}, x.options());
  const at::Tensor z = at::empty({x.size(0), layer.down.size(0)}, x.options());
  const at::Tensor down = aligned(layer.down), up = aligned(layer.up), under = aligned(base);
  const at::Tensor down_bias = aligned(layer.down_bias), up_bias = aligned(layer.up_bias);
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    auto call = product<T>(layer, x, z);
    call.forward = true;
    call.first = in<T>(down), call.shift = in<T>(down_bias), call.first_scale = static_cast<float>(layer.down_scale);
    call.second = in<T>(up), call.bias = in<T>(up_bias), call.second_scale = static_cast<float>(layer.up_scale);
    call.base = in<T>(under), call.y = out<T>(y), call.columns = y.size(1);
    check(cuda::narrow_product(call, stream()));
  });
  return {y, z};
}

NarrowLayer::Gradients narrow_backward(const NarrowLayer& layer, const at::Tensor& dy, const at::Tensor& x,
                                       const at::Tensor& z, const at::Tensor& residual, bool wants_x) {
  const c10::cuda::CUDAGuard guard(x.device());
  NarrowLayer::Gradients result;
  if (wants_x) result.x = at::empty_like(x);
  const int64_t n = x.size(0), m = z.size(1), d_out = dy.size(1);
  const auto type = x.options(), wide = type.dtype(at::kFloat);
  at::Tensor dz, active, dz_parts, space;
  const at::Tensor input = aligned(x);
  const at::Tensor down = aligned(layer.down), up = aligned(layer.up), slopes = aligned(dy), under = aligned(residual);
  const at::Tensor kept = aligned(z);
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    auto call = product<T>(layer, slopes, kept);
    call.forward = false;
    call.input = in<T>(input);
    call.first = in<T>(up), call.first_scale = static_cast<float>(layer.up_scale);
    call.second = in<T>(down), call.second_scale = static_cast<float>(layer.down_scale);
    if (wants_x) call.base = in<T>(under), call.y = out<T>(result.x), call.columns = x.size(1);
    if (const int64_t bytes = cuda::narrow_sums_bytes(call); bytes > 0) {
      space = workspace(bytes, x);
      call.workspace = space.mutable_data_ptr();
      const auto given = layer.rounded ? type : wide;
      result.up = at::empty({d_out, m}, given);
      result.down = at::empty({m, x.size(1)}, given);
      if (layer.up_bias.defined()) result.up_bias = at::empty({d_out}, given);
      if (layer.down_bias.defined()) result.down_bias = at::empty({m}, given);
      const auto give = [&]<class To>(cuda::NarrowSums<To>& sums) {
        sums = {out<To>(result.up), out<To>(result.down), out<To>(result.up_bias), out<To>(result.down_bias)};
      };
      layer.rounded ? give(call.rounded_sums) : give(call.sums);
    } else {
      dz = at::empty_like(z), active = at::empty({n, m + 8}, type);
      if (layer.down_bias.defined()) dz_parts = at::empty({cuda::narrow_blocks(n), m}, wide);
      call.dz = out<T>(dz), call.active = out<T>(active), call.dz_parts = out<float>(dz_parts);
    }
    check(cuda::narrow_product(call, stream()));
  });
  if (active.defined()) {
    const at::Tensor sums = at::mm(active.t(), slopes);  // row m, of ones: those of dy
    result.up = scaled(sums.narrow(0, 0, m), layer.up_scale).t().contiguous();
    if (layer.up_bias.defined()) result.up_bias = sums.select(0, m);
    if (layer.down_bias.defined()) result.down_bias = dz_parts.sum(0);
  }
  if (dz.defined()) result.down = scaled(at::mm(dz.t(), x), layer.down_scale);
  return result;
}

#else

bool takes_narrow(const at::Tensor&, int64_t, int64_t) { return false; }
NarrowLayer::Output narrow_forward(const NarrowLayer&, const at::Tensor&, const at::Tensor&) { absent(); }
NarrowLayer::Gradients narrow_backward(const NarrowLayer&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                       const at::Tensor&, bool) {
  absent();
}

#endif

}  // namespace veneer::device
