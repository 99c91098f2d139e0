// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the processor is that this runs on, as far as a choice depends on it.
#pragma once

namespace veneer::kernels::cpu {

enum class Processor {  // each has what those before it have
  other,                // nothing was measured there
  avx2,                 // sixteen registers of 256 bits
  avx512,               // thirty-two, and of 512 bits
  avx512_bf16,          // the same, with products of pairs of bfloat16 numbers
  amx,                  // and of tiles of them
};

Processor processor();

// Whether it has thirty-two vector registers.
bool many_registers();

}  // namespace veneer::kernels::cpu
