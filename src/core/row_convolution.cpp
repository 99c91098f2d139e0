// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/row_convolution.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <mutex>
#include <numbers>

namespace veneer::cpu {

RowConvolution::RowConvolution(int64_t length, bool negacyclic) : transform_(length, negacyclic) {
  const auto& frequencies = transform_.frequencies();
  order_ = at::empty({length}, at::kLong);
  std::copy(frequencies.begin(), frequencies.end(), order_.mutable_data_ptr<int64_t>());
  if (!negacyclic) return;
  const at::Tensor angle = at::arange(length, at::kDouble) * (-std::numbers::pi / static_cast<double>(length));
  twist_ = at::polar(at::ones_like(angle), angle).to(at::kComplexFloat);
}

const RowConvolution& RowConvolution::of(int64_t length, bool negacyclic) {
  static std::mutex mutex;
  static std::map<std::pair<int64_t, bool>, std::unique_ptr<const RowConvolution>> all;
  const std::lock_guard lock(mutex);
  auto& one = all[{length, negacyclic}];
  if (!one) one.reset(new RowConvolution(length, negacyclic));
  return *one;
}

at::Tensor RowConvolution::filters(const at::Tensor& signals) const {
  const at::Tensor real = signals.to(at::kFloat) / static_cast<double>(transform_.length());
  const at::Tensor spectra = at::fft_fft(twist_.defined() ? real * twist_ : real);
  return at::view_as_real(spectra.index_select(-1, order_)).contiguous();
}

at::Tensor RowConvolution::correlations(const at::Tensor& sums) const {
  const at::Tensor spectra = at::view_as_complex(sums.sum(0));
  const at::Tensor signals = at::fft_ifft(at::empty_like(spectra).index_copy_(-1, order_, spectra));
  return at::real(twist_.defined() ? signals * twist_.conj() : signals).contiguous();
}

}  // namespace veneer::cpu
