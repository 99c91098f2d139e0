// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace veneer {

// How a parameter starts. Draws use the default CPU generator, or, where the spec has a `generator_seed`, one CPU
// generator for all specs of that seed, consumed in declaration order (VeRA's A then B).
struct Initial {
  enum class Kind {
    constant,         // every element is `a`
    normal,           // N(a, b^2)
    uniform,          // U(a, b)
    kaiming_uniform,  // U(-beta, beta), beta = sqrt(6 / ((1 + a^2) * size(1)))
    derived,          // set by Method::start from the base weight (DoRA's magnitude)
  };
  Kind kind = Kind::constant;
  double a = 0.0;
  double b = 0.0;

  static Initial zeros() { return {}; }
  static Initial ones() { return {Kind::constant, 1.0, 0.0}; }
  static Initial constant(double value) { return {Kind::constant, value, 0.0}; }
  static Initial normal(double mean, double std) { return {Kind::normal, mean, std}; }
  static Initial uniform(double low, double high) { return {Kind::uniform, low, high}; }
  static Initial kaiming_uniform(double a) { return {Kind::kaiming_uniform, a, 0.0}; }
  static Initial derived() { return {Kind::derived, 0.0, 0.0}; }
};

// One tensor of an adapter. `name` has no dots (torch refuses them). `key` is the pattern of its name in a checkpoint,
// HF PEFT's where PEFT has the method: "lora_A.{adapter}.weight"; the adapter part is dropped in files.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  Initial initial;
  std::string key;
  bool trainable = true;  // false: a frozen buffer
  bool saved = true;      // false: redrawn from its seed on load, never written
  std::optional<int64_t> generator_seed = std::nullopt;
};

using ParameterSpecs = std::vector<ParameterSpec>;

// The tensors of one adapter on one layer, looked up by the names of their specs: own parameters first, then shared
// ones. A view; it owns nothing. `scoped("down_")` sees the parameters whose names start so, without the prefix.
class Params {
 public:
  Params(const ParameterSpecs& specs, c10::ArrayRef<at::Tensor> tensors, std::string_view prefix = "")
      : specs_(&specs), tensors_(tensors), prefix_(prefix) {}

  // The tensor called prefix + name. Throws an internal error if there is none.
  const at::Tensor& operator[](std::string_view name) const;
  Params scoped(std::string_view prefix) const { return {*specs_, tensors_, prefix}; }

 private:
  const ParameterSpecs* specs_;
  c10::ArrayRef<at::Tensor> tensors_;
  std::string_view prefix_;
};

// Prefixes names and keys, for a matrix used inside a method ("down_" + "weight").
ParameterSpecs with_prefix(ParameterSpecs specs, const std::string& name_prefix, const std::string& key_prefix);

}  // namespace veneer
