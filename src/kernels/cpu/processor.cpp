// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace veneer::kernels::cpu {

namespace {

#if defined(__x86_64__)
bool has_amx_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1U) != 0;
}
#endif

Processor found() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl") != 0) {
    if (__builtin_cpu_supports("avx512bf16") == 0) return Processor::avx512;
    return has_amx_bf16() ? Processor::amx : Processor::avx512_bf16;
  }
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) return Processor::avx2;
#endif
  return Processor::other;
}

}  // namespace

Processor processor() {
  static const Processor here = found();  // asked once: a virtual machine takes microseconds to answer
  return here;
}

bool many_registers() {
#if defined(__x86_64__)
  return processor() >= Processor::avx512;
#else
  return true;
#endif
}

}  // namespace veneer::kernels::cpu
