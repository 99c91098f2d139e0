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

// For tests, by ctypes.
extern "C" {

// Whether tensors are on it from now on.
void veneer_emulate(bool on) { veneer::device::emulating = on; }

// A device with nothing launched, of this compute capability; its launches happen as the seed has it.
void veneer_emulated_device(int major, uint64_t seed) {
  emulator::device() = {};
  emulator::device().major = major;
  emulator::device().seed = seed;
}

// Device::launched; until the next launch.
const char* veneer_emulated_launches() { return emulator::device().launched.c_str(); }
}
