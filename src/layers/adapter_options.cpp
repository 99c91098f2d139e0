// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/adapter_options.h"

#include <nlohmann/json.hpp>

#include "veneer/check.h"

namespace veneer {
namespace {

using nlohmann::json;

template <class AdapterOptions>
AdapterConfig config(const char* peft_type, const AdapterOptions& options, json fields) {
  fields["peft_type"] = peft_type;
  if (!options.modules_to_save().empty()) fields["modules_to_save"] = options.modules_to_save();
  if (!options.exclude_modules().empty()) fields["exclude_modules"] = options.exclude_modules();
  if (!options.layers_to_transform().empty()) fields["layers_to_transform"] = options.layers_to_transform();
  if (!options.layers_pattern().empty()) fields["layers_pattern"] = options.layers_pattern();
  return AdapterConfig::from_json(fields);
}

json parsed(const char* owner, const std::string& text) {
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  VENEER_CHECK(value.is_object(), owner, "expected a JSON object, got ", text);
  return value;
}

// A name, or a JSON object; empty: null.
json matrix_value(const std::string& text) {
  if (text.empty()) return nullptr;
  return text.front() == '{' ? parsed("matrix", text) : json(text);
}

json flag_or_text(const std::string& text) {
  return text == "true" || text == "false" ? json(text == "true") : json(text);
}

}  // namespace

LoraOptions::operator AdapterConfig() const {
  return config("LORA", *this,
                {{"r", r_},
                 {"lora_alpha", lora_alpha_},
                 {"lora_dropout", lora_dropout_},
                 {"bias", bias_},
                 {"use_rslora", use_rslora_},
                 {"use_dora", use_dora_},
                 {"dora_dropout", dora_dropout_},
                 {"init_lora_weights", flag_or_text(init_lora_weights_)},
                 {"rank_pattern", rank_pattern_},
                 {"alpha_pattern", alpha_pattern_}});
}

SurmOptions::operator AdapterConfig() const {
  return config("SURM", *this,
                {{"structure", structure_},
                 {"form", form_.empty() ? json(nullptr) : json(form_)},
                 {"rank", rank_},
                 {"block_size", block_size_},
                 {"padding", padding_},
                 {"scaling", scaling_},
                 {"dropout", dropout_},
                 {"bias", bias_},
                 {"use_dora", use_dora_},
                 {"dora_dropout", dora_dropout_}});
}

Ia3Options::operator AdapterConfig() const {
  return config("IA3", *this, {{"feedforward_modules", feedforward_modules_}, {"init_ia3_weights", init_ia3_weights_}});
}

VeraOptions::operator AdapterConfig() const {
  return config("VERA", *this,
                {{"r", r_},
                 {"projection_prng_key", projection_prng_key_},
                 {"save_projection", save_projection_},
                 {"vera_dropout", vera_dropout_},
                 {"d_initial", d_initial_},
                 {"bias", bias_},
                 {"init_weights", init_weights_}});
}

BottleneckOptions::operator AdapterConfig() const {
  return config("BOTTLENECK", *this,
                {{"reduction_factor", reduction_factor_},
                 {"bottleneck_size", bottleneck_size_},
                 {"placement", placement_},
                 {"non_linearity", non_linearity_},
                 {"matrix", matrix_value(matrix_)},
                 {"down_matrix", matrix_value(down_matrix_)},
                 {"up_matrix", matrix_value(up_matrix_)},
                 {"scaling", scaling_},
                 {"dropout", dropout_},
                 {"use_bias", use_bias_},
                 {"init_weights", init_weights_}});
}

AdditiveOptions::operator AdapterConfig() const {
  return config("ADDITIVE", *this,
                {{"matrix", matrix_value(matrix_)},
                 {"scaling", scaling_},
                 {"dropout", dropout_},
                 {"use_dora", use_dora_},
                 {"dora_dropout", dora_dropout_},
                 {"start", start_},
                 {"bias", bias_}});
}

MethodOptions::operator AdapterConfig() const {
  return config("METHOD", *this, {{"method", method_}, {"options", parsed("MethodOptions", options_)}});
}

ConfigOptions::operator AdapterConfig() const {
  return config(peft_type_.c_str(), *this, parsed("ConfigOptions", fields_));
}

}  // namespace veneer
