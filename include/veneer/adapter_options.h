// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Options of the adapters, one struct per configuration of Python: same names, same defaults, same checks. Each turns
// into an AdapterConfig where one is expected:
//   veneer::adapt(*net, veneer::LoraOptions(16).lora_alpha(32).use_dora(true), {"query", "value"});
#pragma once

#include <torch/arg.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "veneer/config.h"

// What every adapter has. Names match a module path that equals one or ends in "." + one.
#define VENEER_COMMON_ARGS                                                                             \
  TORCH_ARG(std::vector<std::string>, modules_to_save) = {}; /* trained and saved whole: a new head */ \
  TORCH_ARG(std::vector<std::string>, exclude_modules) = {};                                           \
  TORCH_ARG(std::vector<int64_t>, layers_to_transform) = {}; /* indices of blocks; empty: all */       \
  TORCH_ARG(std::vector<std::string>, layers_pattern) = {};  /* name of the block list they count in */

namespace veneer {

// nlohmann::json, without its header.
template <class Json>
concept JsonObject = requires(const Json& value) {
  { value.dump() } -> std::convertible_to<std::string>;
};

struct LoraOptions {
  using Ranks = std::map<std::string, int64_t>;  // pattern of a module path to its rank
  using Alphas = std::map<std::string, double>;
  LoraOptions(int64_t r = 8) : r_(r) {}  // NOLINT(google-explicit-constructor): as torch's options
  operator AdapterConfig() const;        // NOLINT(google-explicit-constructor)
  TORCH_ARG(int64_t, r);
  TORCH_ARG(double, lora_alpha) = 8;  // the update is scaled by lora_alpha / r
  TORCH_ARG(double, lora_dropout) = 0;
  TORCH_ARG(std::string, bias) = "none";  // "all", "lora_only": train the base's biases too
  TORCH_ARG(bool, use_rslora) = false;
  TORCH_ARG(bool, use_dora) = false;
  TORCH_ARG(std::string, dora_dropout) = "peft";       // "shared": cheaper, one base product
  TORCH_ARG(std::string, init_lora_weights) = "true";  // "false": a random update; "gaussian"
  TORCH_ARG(Ranks, rank_pattern) = {};
  TORCH_ARG(Alphas, alpha_pattern) = {};
  VENEER_COMMON_ARGS
};

struct SurmOptions {
  SurmOptions(std::string structure = "circulant") : structure_(std::move(structure)) {}  // NOLINT
  operator AdapterConfig() const;                                                         // NOLINT
  TORCH_ARG(std::string, structure);   // "symmetric_toeplitz", "toeplitz", "kronecker", "ldr"
  TORCH_ARG(std::string, form) = "";   // "product", "single", "elementwise"; empty: the paper's
  TORCH_ARG(int64_t, rank) = 0;        // of kronecker and ldr; 0: a default that fits any layer
  TORCH_ARG(int64_t, block_size) = 0;  // of circulant; 0: gcd(d_in, d_out)
  TORCH_ARG(bool, padding) = false;
  TORCH_ARG(double, scaling) = 1;
  TORCH_ARG(double, dropout) = 0;
  TORCH_ARG(std::string, bias) = "none";
  TORCH_ARG(bool, use_dora) = false;
  TORCH_ARG(std::string, dora_dropout) = "peft";  // "shared": cheaper, one base product
  VENEER_COMMON_ARGS
};

struct Ia3Options {
  operator AdapterConfig() const;                                 // NOLINT
  TORCH_ARG(std::vector<std::string>, feedforward_modules) = {};  // those of the targets whose input is scaled
  TORCH_ARG(bool, init_ia3_weights) = true;
  VENEER_COMMON_ARGS
};

struct VeraOptions {
  VeraOptions(int64_t r = 256) : r_(r) {}  // NOLINT
  operator AdapterConfig() const;          // NOLINT
  TORCH_ARG(int64_t, r);
  TORCH_ARG(int64_t, projection_prng_key) = 0;
  TORCH_ARG(bool, save_projection) = true;  // false: the shared pair is redrawn from its key on load
  TORCH_ARG(double, vera_dropout) = 0;
  TORCH_ARG(double, d_initial) = 0.1;
  TORCH_ARG(std::string, bias) = "none";
  TORCH_ARG(bool, init_weights) = true;
  VENEER_COMMON_ARGS
};

// For HiddenSite. A matrix is a name, or a JSON object with a name and options: R"({"name": "low_rank", "rank": 4})".
struct BottleneckOptions {
  BottleneckOptions(double reduction_factor = 16) : reduction_factor_(reduction_factor) {}  // NOLINT
  operator AdapterConfig() const;                                                           // NOLINT
  TORCH_ARG(double, reduction_factor);
  TORCH_ARG(int64_t, bottleneck_size) = 0;  // 0: d / reduction_factor
  TORCH_ARG(std::string, placement) = "houlsby";
  TORCH_ARG(std::string, non_linearity) = "gelu";
  TORCH_ARG(std::string, matrix) = "dense";
  TORCH_ARG(std::string, down_matrix) = "";  // empty: `matrix`
  TORCH_ARG(std::string, up_matrix) = "";
  TORCH_ARG(double, scaling) = 1;
  TORCH_ARG(double, dropout) = 0;
  TORCH_ARG(bool, use_bias) = true;
  TORCH_ARG(std::string, init_weights) = "zero_up";
  VENEER_COMMON_ARGS
};

struct AdditiveOptions {
  AdditiveOptions(std::string matrix = "low_rank") : matrix_(std::move(matrix)) {}  // NOLINT
  operator AdapterConfig() const;                                                   // NOLINT
  TORCH_ARG(std::string, matrix);                                                   // as in BottleneckOptions
  TORCH_ARG(double, scaling) = 1;
  TORCH_ARG(double, dropout) = 0;
  TORCH_ARG(bool, use_dora) = false;
  TORCH_ARG(std::string, dora_dropout) = "peft";
  TORCH_ARG(std::string, start) = "zero";
  TORCH_ARG(std::string, bias) = "none";
  VENEER_COMMON_ARGS
};

// Any registered method by name; its options as JSON text or as a nlohmann::json object.
struct MethodOptions {
  explicit MethodOptions(std::string method, std::string options = "{}")
      : method_(std::move(method)), options_(std::move(options)) {}
  template <JsonObject Json>
  MethodOptions(std::string method, const Json& options) : MethodOptions(std::move(method), options.dump()) {}
  operator AdapterConfig() const;  // NOLINT
  TORCH_ARG(std::string, method);
  TORCH_ARG(std::string, options);
  VENEER_COMMON_ARGS
};

// Any configuration of docs/methods.md by its peft_type, such as "C3A"; its fields as JSON text or as a nlohmann::json
// object.
struct ConfigOptions {
  explicit ConfigOptions(std::string peft_type, std::string fields = "{}")
      : peft_type_(std::move(peft_type)), fields_(std::move(fields)) {}
  template <JsonObject Json>
  ConfigOptions(std::string peft_type, const Json& fields) : ConfigOptions(std::move(peft_type), fields.dump()) {}
  operator AdapterConfig() const;  // NOLINT
  TORCH_ARG(std::string, peft_type);
  TORCH_ARG(std::string, fields);
  VENEER_COMMON_ARGS
};

}  // namespace veneer
