// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/processor.h"

namespace veneer::kernels::cpu {

Processor processor() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl") != 0) {
    return __builtin_cpu_supports("avx512bf16") != 0 ? Processor::avx512_bf16 : Processor::avx512;
  }
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) return Processor::avx2;
#endif
  return Processor::other;
}

bool many_registers() {
#if defined(__x86_64__)
  return processor() == Processor::avx512 || processor() == Processor::avx512_bf16;
#else
  return true;
#endif
}

}  // namespace veneer::kernels::cpu
