// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/limits.h"

#include "kernels/cpu/processor.h"

namespace veneer {

const Limits& limits() {
  using kernels::cpu::Processor;
  static const Limits found = [] {
    switch (kernels::cpu::processor()) {
      case Processor::amx: return Limits{24, 64, 32, 0, 64};  // its library uses it
      case Processor::avx512_bf16: return Limits{24, 64, 32, 64, 64};
      case Processor::avx512: return Limits{24, 64, 32, 32, 64};
      case Processor::avx2: return Limits{0, 32, 32, 32, 64};
      case Processor::other: break;
    }
    // Two more thin products of rank r cost N r (d_in + d_out) numbers' arithmetic at a half of a large product's rate,
    // two passes over a weight some d_in d_out numbers' bytes: about even at r = 8. A library knows its
    // processor better than a kernel that is compiled for any.
    return Limits{8, 16, 16, 16, 64};
  }();
  return found;
}

}  // namespace veneer
