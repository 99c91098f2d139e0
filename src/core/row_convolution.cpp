// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/row_convolution.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace veneer::cpu {

using kernels::cpu::RowTransform;

namespace {

constexpr int64_t at_once = RowTransform::rows / 2;

}  // namespace

const RowConvolution& RowConvolution::of(int64_t length, bool negacyclic) {
  static std::mutex mutex;
  static std::map<std::pair<int64_t, bool>, std::unique_ptr<const RowConvolution>> all;
  const std::lock_guard lock(mutex);
  auto& one = all[{length, negacyclic}];
  if (!one) one.reset(new RowConvolution(length, negacyclic));
  return *one;
}

at::Tensor RowConvolution::filters(const at::Tensor& signals) const {
  const at::Tensor real = signals.to(at::kFloat).contiguous();
  const int64_t length = transform_.length(), count = real.numel() / length;
  std::vector<int64_t> shape = signals.sizes().vec();
  shape.push_back(2);
  at::Tensor result = at::empty(shape, real.options());
  float* const z = room<float>(transform_.numbers(), 1);
  for (int64_t i = 0; i < count; i += at_once) {
    transform_.spectra(in<float>(real) + i * length, std::min(at_once, count - i), 1.0F / static_cast<float>(length), z,
                       out<float>(result) + 2 * i * length);
  }
  return result;
}

at::Tensor RowConvolution::correlations(const at::Tensor& sums) const {
  const at::Tensor spectra = sums.sum(0).contiguous();  // [*, length, 2]
  const int64_t length = transform_.length(), count = spectra.numel() / (2 * length);
  at::Tensor result = at::empty(spectra.sizes().slice(0, spectra.dim() - 1), spectra.options());
  float* const z = room<float>(transform_.numbers(), 1);
  for (int64_t i = 0; i < count; i += at_once) {
    transform_.signals(in<float>(spectra) + 2 * i * length, std::min(at_once, count - i),
                       1.0F / static_cast<float>(length), z, out<float>(result) + i * length);
  }
  return result;
}

}  // namespace veneer::cpu
