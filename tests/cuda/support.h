// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What tests of kernels need, without torch: memory of the device, numbers of every type, and the comparison with
// float64. They run on the emulated device, or, built with VENEER_ON_GPU, on a real one.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/seeded_dropout.h"

namespace kernel_test {

using veneer::kernels::Bf16;
using veneer::kernels::Fp16;

double wide(float value);
double wide(double value);
double wide(Bf16 value);
double wide(Fp16 value);
inline double wide(int64_t value) { return static_cast<double>(value); }
inline double wide(uint8_t value) { return value; }
template <class T>
T rounded(double value);
// The most that a rounding changes a number by, relative.
template <class T>
double precision();

// Bytes that begin at a multiple of 16; what is written beside them is found by check().
class Bytes {
 public:
  explicit Bytes(int64_t count);
  ~Bytes();
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  void* data() const { return data_; }
  void write(const void* from);
  void read(void* to) const;
  void check() const;

 private:
  int64_t count_;
  uint8_t *all_, *data_;
};

// Numbers on the device; those that no-one has written are not numbers.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t count) : count_(count), bytes_(count * static_cast<int64_t>(sizeof(T))) {}
  explicit Memory(const std::vector<double>& values) : Memory(static_cast<int64_t>(values.size())) {
    std::vector<T> numbers;
    for (const double value : values) numbers.push_back(rounded<T>(value));
    bytes_.write(numbers.data());
  }

  T* data() const { return static_cast<T*>(bytes_.data()); }
  std::vector<T> raw() const {
    std::vector<T> numbers(static_cast<size_t>(count_));
    bytes_.read(numbers.data());
    bytes_.check();
    return numbers;
  }
  std::vector<double> read() const {
    std::vector<double> values;
    for (const T value : raw()) values.push_back(wide(value));
    return values;
  }

 private:
  int64_t count_;
  Bytes bytes_;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // Normal numbers, each one of type T.
  template <class T>
  std::vector<double> numbers(int64_t count, double scale = 1) {
    std::vector<double> values;
    std::normal_distribution<double> normal(0, scale);
    for (int64_t i = 0; i < count; ++i) values.push_back(wide(rounded<T>(normal(engine_))));
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

// Each number within `relative` of the expected, and of the typical size of those.
::testing::AssertionResult near(const std::vector<double>& have, const std::vector<double>& want, double relative);

// Runs f() once with each of some seeds of the emulated device, or once on a real one.
template <class F>
void with_seeds(const F& f, int count = 3);

int processors();
void set_processors(int count);  // of the emulated device; a real one has its own
bool is_emulated();
void set_seed(uint64_t seed);

template <class F>
void with_seeds(const F& f, int count) {
  for (int seed = 0; seed < (is_emulated() ? count : 1); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    set_seed(static_cast<uint64_t>(seed));
    f();
  }
}

}  // namespace kernel_test
