// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/extended.h"

#include <ATen/ATen.h>

#include "device/fitting.h"
#include "device/launch.h"
#include "device/mask.h"
#include "device/thin.h"
#include "kernels/cuda/extended_product.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

int64_t rank_of_product(int64_t rank) { return (rank + 7) / 8 * 8; }

// h [N, r] and p, [d_out, r] or turned, as the kernel takes them. Undefined without an update.
struct Update {
  at::Tensor h, p;
  int64_t rank = 0;
};

Update update_of(const at::Tensor& h, const at::Tensor& p, bool p_turned) {
  if (!h.defined()) return {};
  const int64_t rank = rank_of_product(h.size(1));
  if (h.size(1) == rank) return {aligned(h), aligned(p), rank};
  const auto [left, right] = padded(h, p, p_turned, rank);
  return {left, right, rank};
}

// x weight^T + h p^T, or x weight + h p with the mask's: what both calls have in common.
template <class T>
cuda::ExtendedProduct<T> call_of(const at::Tensor& x, const at::Tensor& weight, const Update& update,
                                 const Dropped& mask, const at::Tensor& y, bool forward) {
  cuda::ExtendedProduct<T> call{};
  call.x = in<T>(x), call.rows = x.size(0), call.depth = x.size(1);
  call.w = in<T>(weight), call.columns = y.size(1);
  call.h = in<T>(update.h), call.p = in<T>(update.p), call.rank = update.rank;
  call.mask = mask_of(mask), call.kept_scale = static_cast<float>(kept_scale(mask));
  call.y = out<T>(y), call.forward = forward;
  return call;
}

Gained product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
               const at::Tensor& bias, const at::Tensor& gain, bool gains_bias, const Dropped& mask, bool forward) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t columns = weight.size(forward ? 0 : 1);
  const at::Tensor y = at::empty({x.size(0), columns}, x.options());
  const at::Tensor plain = gain.defined() ? at::empty_like(y) : at::Tensor();
  const Update update = update_of(h, p, /*p_turned=*/!forward);
  const at::Tensor shift = aligned(bias), gains = aligned(floats(gain));
  for_16_bit(x.scalar_type(), [&]<class T>(T) {
    auto call = call_of<T>(x, weight, update, mask, y, forward);
    call.bias = in<T>(shift), call.gain = in<float>(gains), call.gained_bias = gains_bias, call.plain = out<T>(plain);
    check(cuda::extended_product(call, stream()));
  });
  return {y, plain};
}

}  // namespace

bool takes_extended(const at::Tensor& x, const at::Tensor& weight, int64_t rank) {
  if (!on_gpu(x) || !on_gpu(weight) || !takes_16_bit(x.scalar_type()) || !is_aligned(x) || !is_aligned(weight) ||
      !cuda::extended_product_supported(at::cuda::getDeviceProperties(x.get_device())->major, weight.size(1),
                                        weight.size(0), rank_of_product(rank))) {
    return false;
  }
  const c10::cuda::CUDAGuard guard(x.device());
  return cuda::extended_product_built();
}

at::Tensor extended(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                    const at::Tensor& bias) {
  return product(x, weight, h, p, bias, {}, /*gains_bias=*/false, {}, /*forward=*/true).y;
}

Gained extended_gained(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                       const at::Tensor& bias, const at::Tensor& gain, bool gains_bias) {
  return product(x, weight, h, p, bias, gain, gains_bias, {}, /*forward=*/true);
}

bool takes_extended_mask(const at::Tensor& weight, const Dropped& mask) {
  return !mask.seed.defined() || cuda::extended_mask_supported(weight.size(1));
}

at::Tensor extended_turned(const at::Tensor& dy, const at::Tensor& weight, const at::Tensor& h, const at::Tensor& p,
                           const Dropped& mask) {
  return product(dy, weight, h, p, {}, {}, /*gains_bias=*/false, mask, /*forward=*/false).y;
}

bool takes_extended_gradients(const at::Tensor& dy, const at::Tensor& weight, const Dropped& x, int64_t rank) {
  return (rank == 0 || is_aligned(x.x)) && takes_extended_mask(weight, x) &&
         cuda::extended_sums_supported(dy.size(0), weight.size(1), rank_of_product(rank));
}

ExtendedGradients extended_gradients(const at::Tensor& dy, const at::Tensor& dh, const ExtendedLayer& layer) {
  const c10::cuda::CUDAGuard guard(dy.device());
  const int64_t n = dy.size(0), d_out = dy.size(1), d_in = layer.weight.size(1);
  const bool gained = layer.gain.g.defined(), rounded_gain = gained && layer.gain.rounded;
  const auto type = dy.options(), wide = type.dtype(at::kFloat);
  const Update update = update_of(dh, layer.a, /*p_turned=*/true);
  ExtendedGradients result{at::empty({n, d_in}, type),
                           dh.defined() ? at::empty({update.rank, d_in}, layer.rounded ? type : wide) : at::Tensor(),
                           gained ? at::empty({d_out}, rounded_gain ? type : wide) : at::Tensor()};
  const at::Tensor weight = gained ? scaled_rows(layer.weight, layer.gain.g) : layer.weight;
  const at::Tensor norms = floats(layer.gain.n);
  const at::Tensor shift = aligned(layer.bias);
  const at::Tensor plain = gained ? aligned(layer.gain.y) : at::Tensor();
  for_16_bit(dy.scalar_type(), [&]<class T>(T) {
    auto call = call_of<T>(dy, weight, update, layer.x, result.x, /*forward=*/false);
    auto& sums = call.sums;
    if (dh.defined()) sums.other = in<T>(layer.x.x);
    sums.plain = in<T>(plain), sums.plain_bias = in<T>(shift), sums.plain_divisors = in<float>(norms);
    rounded_gain ? void(sums.rounded_of_plain = out<T>(result.gain)) : void(sums.of_plain = out<float>(result.gain));
    layer.rounded ? void(sums.rounded_of_other = out<T>(result.a)) : void(sums.of_other = out<float>(result.a));
    const at::Tensor space = workspace(cuda::extended_sums_bytes(call, processors()), dy);
    sums.workspace = space.mutable_data_ptr();
    check(cuda::extended_product(call, stream()));
  });
  if (dh.defined() && dh.size(1) != update.rank) result.a = result.a.narrow(0, 0, dh.size(1));
  return result;
}

#else

bool takes_extended(const at::Tensor&, const at::Tensor&, int64_t) { return false; }
at::Tensor extended(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  absent();
}
Gained extended_gained(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                       const at::Tensor&, bool) {
  absent();
}
bool takes_extended_mask(const at::Tensor&, const Dropped&) { return false; }
at::Tensor extended_turned(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const Dropped&) {
  absent();
}
bool takes_extended_gradients(const at::Tensor&, const at::Tensor&, const Dropped&, int64_t) { return false; }
ExtendedGradients extended_gradients(const at::Tensor&, const at::Tensor&, const ExtendedLayer&) { absent(); }

#endif

}  // namespace veneer::device
