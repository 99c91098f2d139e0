// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The device of the tests where it is a GPU.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "support.h"

namespace kernel_test {
namespace {

constexpr uint8_t untouched = 0xFF;
constexpr int64_t margin = 256;  // on either side; cudaMalloc's alignment

void expect_success(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

}  // namespace

Bytes::Bytes(int64_t count) : count_(count) {
  void* p = nullptr;
  expect_success(cudaMalloc(&p, static_cast<size_t>(count + 2 * margin)));
  all_ = static_cast<uint8_t*>(p);
  data_ = all_ + margin;
  expect_success(cudaMemset(all_, untouched, static_cast<size_t>(count + 2 * margin)));
}
Bytes::~Bytes() { cudaFree(all_); }

void Bytes::write(const void* from) {
  expect_success(cudaMemcpy(data_, from, static_cast<size_t>(count_), cudaMemcpyHostToDevice));
}
void Bytes::read(void* to) const {
  expect_success(cudaMemcpy(to, data_, static_cast<size_t>(count_), cudaMemcpyDeviceToHost));
}
void Bytes::check() const {
  std::vector<uint8_t> all(static_cast<size_t>(count_ + 2 * margin));
  expect_success(cudaMemcpy(all.data(), all_, all.size(), cudaMemcpyDeviceToHost));
  for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i) {
    if ((i < margin || i >= margin + count_) && all[static_cast<size_t>(i)] != untouched) {
      ADD_FAILURE() << "a byte " << i - margin << " bytes from the start of " << count_ << " was written";
      return;
    }
  }
}

int processors() {
  int device = 0, count = 0;
  expect_success(cudaGetDevice(&device));
  expect_success(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}
void set_processors(int) {}
bool is_emulated() { return false; }
void set_seed(uint64_t) {}

}  // namespace kernel_test
