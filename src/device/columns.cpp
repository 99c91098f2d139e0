// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "device/columns.h"

#include <ATen/ATen.h>

#include "device/launch.h"
#include "kernels/cuda/column_scaling.h"
#include "kernels/cuda/diagonal_sums.h"

namespace veneer::device {

#if VENEER_WITH_CUDA

bool takes_columns(const at::Tensor& y) {
  return on_gpu(y) && y.dim() == 2 && takes_up_to_32_bit(y.scalar_type()) && y.is_contiguous() &&
         cuda::packed_rows(y.const_data_ptr(), y.size(1), y.element_size());
}

namespace {

void scale(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias, const at::Tensor& to) {
  const c10::cuda::CUDAGuard guard(y.device());
  const at::Tensor gains = floats(g), shift = aligned(bias);
  for_up_to_32_bit(y.scalar_type(), [&]<class T>(T) {
    const cuda::ColumnScaling<T> call{in<T>(y), y.size(0), y.size(1), in<float>(gains), in<T>(shift), out<T>(to)};
    check(cuda::column_scaling(call, processors(), stream()));
  });
}

}  // namespace

at::Tensor scaled_columns(const at::Tensor& y, const at::Tensor& g, const at::Tensor& bias) {
  at::Tensor result = at::empty_like(y);
  scale(y, g, bias, result);
  return result;
}

void add_to_columns(const at::Tensor& y, const at::Tensor& bias) { scale(y, {}, bias, y); }

at::Tensor column_sums(const at::Tensor& dy, const at::Tensor& y, const at::Tensor& bias, const at::Tensor& g,
                       const at::Tensor& scaled) {
  const c10::cuda::CUDAGuard guard(y.device());
  const int64_t n = y.size(0), d = y.size(1);
  const auto options = y.options().dtype(at::kFloat);
  const at::Tensor sums = n == 0 ? at::zeros({d}, options) : at::empty({d}, options);
  const at::Tensor space = workspace(cuda::column_sums_bytes(n, d, processors()), y);
  const at::Tensor gains = floats(g), shift = aligned(bias), slopes = aligned(dy);
  for_up_to_32_bit(y.scalar_type(), [&]<class T>(T) {
    const cuda::ColumnSums<T> call{
        in<T>(slopes),           in<T>(y), n, d, in<float>(gains), in<T>(shift), out<T>(scaled), out<float>(sums),
        space.mutable_data_ptr()};
    check(cuda::column_sums(call, processors(), stream()));
  });
  return sums;
}

void diagonal_sums(const at::Tensor& m) {
  const c10::cuda::CUDAGuard guard(m.device());
  check(m.scalar_type() == at::kDouble
            ? cuda::diagonal_sums(m.mutable_data_ptr<double>(), m.size(0), m.size(1), stream())
            : cuda::diagonal_sums(m.mutable_data_ptr<float>(), m.size(0), m.size(1), stream()));
}

#else

bool takes_columns(const at::Tensor&) { return false; }
at::Tensor scaled_columns(const at::Tensor&, const at::Tensor&, const at::Tensor&) { absent(); }
at::Tensor column_sums(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  absent();
}
void add_to_columns(const at::Tensor&, const at::Tensor&) { absent(); }
void diagonal_sums(const at::Tensor&) { absent(); }

#endif

}  // namespace veneer::device
