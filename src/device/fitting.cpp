// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/fitting.h"

#include <array>

#include "device/launch.h"
#include "kernels/cuda/fitting.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

namespace {

using Size = std::array<int64_t, 2>;

template <class From, class T>
cuda::Fitting<From, T> call(const at::Tensor& from, const Size& size, const at::Tensor& to, const Size& to_size) {
  return {in<From>(from), out<T>(to), size[0], size[1], to_size[0], to_size[1]};
}

}  // namespace

bool takes_narrowing(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  const auto takes = [](const at::Tensor& t) { return on_gpu(t) && t.scalar_type() == at::kFloat && is_aligned(t); };
  return takes_16_bit(type) && takes(a) && takes(b) && a.get_device() == b.get_device();
}

std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  const c10::cuda::CUDAGuard guard(a.device());
  const std::pair result{at::empty(a.sizes(), a.options().dtype(type)), at::empty(b.sizes(), b.options().dtype(type))};
  for_16_bit(type, [&]<class T>(T) {
    const auto one = [](const at::Tensor& from, const at::Tensor& to) {
      const Size size{1, from.numel()};
      return call<float, T>(from, size, to, size);
    };
    check(cuda::fit_two(one(a, result.first), one(b, result.second), stream()));
  });
  return result;
}

std::pair<at::Tensor, at::Tensor> padded(const at::Tensor& h, const at::Tensor& p, bool p_turned, int64_t rank) {
  const c10::cuda::CUDAGuard guard(h.device());
  const at::Tensor left = aligned(h), right = aligned(p);
  const Size left_size{h.size(0), rank}, size{p.size(0), p.size(1)};
  const Size right_size = p_turned ? Size{rank, size[1]} : Size{size[0], rank};
  const std::pair result{at::empty(left_size, h.options()), at::empty(right_size, p.options())};
  for_16_bit(h.scalar_type(), [&]<class T>(T) {
    check(cuda::fit_two(call<T, T>(left, {h.size(0), h.size(1)}, result.first, left_size),
                        call<T, T>(right, size, result.second, right_size), stream()));
  });
  return result;
}

#else

bool takes_narrowing(const at::Tensor&, const at::Tensor&, at::ScalarType) { return false; }
std::pair<at::Tensor, at::Tensor> narrowed(const at::Tensor&, const at::Tensor&, at::ScalarType) { absent(); }
std::pair<at::Tensor, at::Tensor> padded(const at::Tensor&, const at::Tensor&, bool, int64_t) { absent(); }

#endif

}  // namespace veneer::device
