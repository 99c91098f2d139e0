// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>

namespace veneer::kernels::cuda {

// A number that each device is asked for once; several threads may ask at the same time, and then get the same.
class PerDevice {
 public:
  static constexpr int unknown = -1;  // an answer that is not kept

  PerDevice() {
    for (auto& answer : answers_) answer = unknown;
  }

  template <class Ask>
  int of(int device, const Ask& ask) {
    if (device < 0 || device >= devices) return ask();
    std::atomic<int>& kept = answers_[static_cast<size_t>(device)];
    int answer = kept.load(std::memory_order_relaxed);
    if (answer == unknown) {
      answer = ask();
      kept.store(answer, std::memory_order_relaxed);
    }
    return answer;
  }

 private:
  static constexpr int devices = 64;
  std::array<std::atomic<int>, devices> answers_;
};

}  // namespace veneer::kernels::cuda
