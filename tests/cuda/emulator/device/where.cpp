// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of src/device/where.cpp: tensors of the CPU are on the emulated GPU, while that is on.
#include "device/plain.h"

#include <utility>

#include "machine.h"

namespace veneer::device {
namespace {

enum class Where : int { cpu, gpu, gpu_without_kernels };
Where where = Where::gpu;

}  // namespace

bool on_gpu(const at::Tensor& t) { return where == Where::gpu && t.is_cpu() && !is_wrapped(t); }
bool on_cpu(const at::Tensor& t) { return where == Where::cpu && t.is_cpu() && !is_wrapped(t); }

}  // namespace veneer::device

// For tests, by ctypes.
extern "C" {

// Where tensors are from now on: 0 on the CPU, 1 on the GPU, 2 on one that the library is not built for; where they
// were.
int veneer_emulate(int where) {
  return static_cast<int>(std::exchange(veneer::device::where, static_cast<veneer::device::Where>(where)));
}

// A device with nothing launched, of this compute capability; its launches happen as the seed has it.
void veneer_emulated_device(int major, uint64_t seed) {
  emulator::device() = {};
  emulator::device().major = major;
  emulator::device().seed = seed;
}

// Device::launched; until the next launch.
const char* veneer_emulated_launches() { return emulator::device().launched.c_str(); }
}
