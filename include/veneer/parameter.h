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
    rotation,         // [..., 2, 2]: rotations by angles from U(0, 2 pi)
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
  static Initial rotation() { return {Kind::rotation, 0.0, 0.0}; }
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
  bool common = false;  // shared tensors: one for the whole adapter, wherever in a method the matrix stands
};

using ParameterSpecs = std::vector<ParameterSpec>;

// The tensors of one adapter on one layer, looked up by the names of their specs: own parameters first, then shared
// ones. A view; it owns nothing. `scoped("down_")` sees the parameters whose names start so, without the prefix, for a
// matrix inside a method or inside another matrix.
class Params {
 public:
  Params(const ParameterSpecs& specs, c10::ArrayRef<at::Tensor> tensors, std::string prefix = "")
      : specs_(&specs), tensors_(tensors), prefix_(std::move(prefix)) {}

  // The tensor called prefix + name, or the common one called name. Throws an internal error if there is none.
  const at::Tensor& operator[](std::string_view name) const { return tensors_[place(name)]; }
  // Its place among `tensors`.
  size_t place(std::string_view name) const;
  Params scoped(const std::string& prefix) const { return {*specs_, tensors_, prefix_ + prefix}; }

  // All tensors and their specs, whatever the prefix; the same names with other tensors.
  const ParameterSpecs& specs() const { return *specs_; }
  c10::ArrayRef<at::Tensor> tensors() const { return tensors_; }
  Params with(c10::ArrayRef<at::Tensor> tensors) const { return {*specs_, tensors, prefix_}; }

 private:
  const ParameterSpecs* specs_;
  c10::ArrayRef<at::Tensor> tensors_;
  std::string prefix_;
};

// Prefixes names and keys but those of common specs, for a matrix used inside a method ("down_" + "weight").
ParameterSpecs with_prefix(ParameterSpecs specs, const std::string& name_prefix, const std::string& key_prefix);
// Adds shared specs to those of other parts; a common one only once.
void add_shared(ParameterSpecs& all, const ParameterSpecs& specs);

}  // namespace veneer
