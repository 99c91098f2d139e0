// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "support.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

namespace kernel_test {

double wide(float value) { return value; }
double wide(double value) { return value; }
double wide(Bf16 value) { return __bfloat162float(__ushort_as_bfloat16(value.bits)); }
double wide(Fp16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <>
float rounded(double value) {
  return static_cast<float>(value);
}
template <>
double rounded(double value) {
  return value;
}
template <>
Bf16 rounded(double value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(value)))};
}
template <>
Fp16 rounded(double value) {
  return {__half_as_ushort(__float2half_rn(static_cast<float>(value)))};
}
template <>
int64_t rounded(double value) {
  return static_cast<int64_t>(value);
}

template <>
double precision<float>() {
  return 0x1p-24;
}
template <>
double precision<double>() {
  return 0x1p-53;
}
template <>
double precision<Bf16>() {
  return 0x1p-8;
}
template <>
double precision<Fp16>() {
  return 0x1p-11;
}

::testing::AssertionResult near(const std::vector<double>& have, const std::vector<double>& want, double relative) {
  if (have.size() != want.size()) {
    return ::testing::AssertionFailure() << have.size() << " numbers where " << want.size() << " were expected";
  }
  double squares = 0;
  for (const double value : want) squares += value * value;
  const double typical = want.empty() ? 0 : std::sqrt(squares / static_cast<double>(want.size()));
  size_t worst = 0, wrong = 0;
  double most = -1;
  for (size_t i = 0; i < want.size(); ++i) {
    const double allowed = relative * std::max(typical, std::abs(want[i]));
    const double error = std::isnan(have[i]) ? std::numeric_limits<double>::infinity() : std::abs(have[i] - want[i]);
    if (!(error <= allowed)) ++wrong;
    if (const double ratio = error / std::max(allowed, 1e-300); ratio > most) most = ratio, worst = i;
  }
  if (wrong == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << wrong << " of " << want.size() << " numbers are wrong; the worst is "
                                       << have[worst] << " at " << worst << " where " << want[worst]
                                       << " was expected, " << most << " times what is allowed";
}

}  // namespace kernel_test
