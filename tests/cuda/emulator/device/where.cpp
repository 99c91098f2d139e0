// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of src/device/where.cpp: tensors of the CPU are on the emulated GPU, while that is on.
#include "device/plain.h"

#include "machine.h"

namespace veneer::device {
namespace {

bool emulating = true;

}  // namespace

bool on_gpu(const at::Tensor& t) { return emulating && t.is_cpu() && !is_wrapped(t); }
bool on_cpu(const at::Tensor& t) { return t.is_cpu() && !on_gpu(t); }

}  // namespace veneer::device

// For tests, by ctypes: whether tensors are on it from now on; what it draws, and how many multiprocessors it has.
extern "C" {
void veneer_emulate(bool on) { veneer::device::emulating = on; }
void veneer_emulated_seed(uint64_t seed) { emulator::device().seed = seed; }
}
