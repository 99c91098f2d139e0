// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/config.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "veneer/check.h"

namespace veneer {
namespace {

using nlohmann::json;

std::map<std::string, ConfigEntry>& entries() {
  static std::map<std::string, ConfigEntry> all;
  return all;
}

std::vector<std::string> field_names(const OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& option : table) names.push_back(option.name);
  return names;
}

bool has(const OptionTable& table, const std::string& name) {
  return std::any_of(table.begin(), table.end(), [&](const Option& option) { return option.name == name; });
}

const ConfigEntry& entry_of(const json& values) {
  VENEER_CHECK(values.is_object(), "config", "expected a JSON object, got ", values.dump());
  const auto type = values.find("peft_type");
  VENEER_CHECK(type != values.end() && type->is_string(), "config",
               "expected a field peft_type, one of: ", join(config_types()));
  return config_entry(type->get<std::string>());
}

bool neutral(const json& value) {
  return value.is_null() || value == json(false) || value == json("") ||
         (value.is_structured() && std::all_of(value.begin(), value.end(), neutral));
}

// Common and own fields apart.
std::pair<json, json> split(const json& values) {
  json common = json::object();
  json own = json::object();
  for (const auto& [key, value] : values.items()) {
    if (key == "peft_type") continue;
    (has(common_fields(), key) ? common : own)[key] = value;
  }
  return {common, own};
}

std::regex pattern_of(const std::string& text) {
  try {
    return std::regex(text);
  } catch (const std::regex_error& error) {
    VENEER_CHECK(false, "config", "expected a regular expression, got ", text, ": ", error.what());
  }
}

const RegisterConfig any_method{{"METHOD",
                                 "MethodConfig",
                                 "Any registered method by its name",
                                 {Option::any("method", "null", "name of the method", "str"),
                                  Option::any("options", "{}", "its options", "dict[str, Any]")},
                                 "{}",
                                 [](const Options& fields, const Site&) {
                                   const json& method = fields.value("method");
                                   VENEER_CHECK(method.is_string(), "MethodConfig",
                                                "method must be one of: ", join(method_names()), "; got ",
                                                method.dump());
                                   return method_call(method.get<std::string>(), fields.value("options"));
                                 }}};

}  // namespace

MethodCall method_call(std::string method, const json& options) {
  return {std::move(method), std::make_shared<const json>(options)};
}

RegisterConfig::RegisterConfig(ConfigEntry entry) {
  const std::string type = entry.peft_type;
  const bool added = entries().emplace(type, std::move(entry)).second;
  TORCH_INTERNAL_ASSERT(added, "config `", type, "` is registered twice");
}

const OptionTable& common_fields() {
  static const OptionTable fields{
      Option::any(
          "target_modules", "null",
          "modules to adapt: a list of names (a path equal to one or ending in .name), a regular expression for "
          "the whole path, or \"all-linear\"; for hidden sites an object {wiring: names}",
          "list[str] | str | dict[str, list[str]] | None"),
      Option::any("exclude_modules", "null", "modules not to adapt: a list of names or a regular expression",
                  "list[str] | str | None"),
      Option::any("modules_to_save", "null",
                  "names of modules trained and saved whole beside the adapter, such as a new head",
                  "list[str] | None"),
      Option::any("layers_to_transform", "null", "index or indices of the blocks to adapt", "list[int] | int | None"),
      Option::any("layers_pattern", "null", "name or names of the block list that layers_to_transform counts in",
                  "list[str] | str | None"),
      Option::any("task_type", "null",
                  "SEQ_CLS, TOKEN_CLS, QUESTION_ANS, CAUSAL_LM, SEQ_2_SEQ_LM or FEATURE_EXTRACTION",
                  "TaskType | str | None"),
      Option::flag("inference_mode", false, "make no parameter trainable"),
      Option::flag("fan_in_fan_out", false, "the weights are stored [d_in, d_out]; found from the layer's type"),
      Option::any("base_model_name_or_path", "null", "where the base model came from", "str | None"),
      Option::any("revision", "null", "its revision", "str | None"),
      Option::any("auto_mapping", "null", "class and library of a base model without a task type",
                  "dict[str, Any] | None"),
      Option::any("peft_version", "null", "version of the library that wrote the file", "str | None")};
  return fields;
}

std::vector<std::string> config_types() {
  std::vector<std::string> types;
  for (const auto& [type, entry] : entries()) types.push_back(type);
  return types;
}

const ConfigEntry& config_entry(const std::string& peft_type) {
  const auto found = entries().find(peft_type);
  VENEER_CHECK(found != entries().end(), "config", "unknown peft_type `", peft_type, "`; known: ", join(config_types()),
               suggestion(peft_type, config_types()));
  return found->second;
}

AdapterConfig::AdapterConfig(const ConfigEntry& entry, Options common, Options fields)
    : entry_(&entry), common_(std::move(common)), fields_(std::move(fields)) {}

AdapterConfig AdapterConfig::from_json(const nlohmann::json& values) {
  const ConfigEntry& entry = entry_of(values);
  auto [common, own] = split(values);
  // One list of known names in the error: the user sees one class.
  const OptionTable all = entry.fields + common_fields();
  for (const auto& [key, value] : own.items()) {
    VENEER_CHECK(has(entry.fields, key), entry.name, "unknown field `", key, "`; known: ", join(field_names(all)),
                 suggestion(key, field_names(all)));
  }
  Options fields(entry.name, entry.fields, own);
  if (entry.complete) {
    nlohmann::json completed = fields.json();
    entry.complete(completed);
    fields = Options(entry.name, entry.fields, completed);
  }
  return {entry, Options(entry.name, common_fields(), common), std::move(fields)};
}

AdapterConfig AdapterConfig::from_file(const nlohmann::json& values) {
  const ConfigEntry& entry = entry_of(values);
  const nlohmann::json defaults = nlohmann::json::parse(entry.unsupported);
  nlohmann::json known = nlohmann::json::object();
  for (const auto& [key, value] : values.items()) {
    if (key == "peft_type" || has(common_fields(), key) || has(entry.fields, key)) {
      known[key] = value;
      continue;
    }
    const bool harmless = neutral(value) || (defaults.contains(key) && defaults[key] == value);
    VENEER_CHECK(harmless, entry.name, "the file asks for `", key, "` = ", value.dump(), ", which is not supported",
                 defaults.contains(key) ? " (expected " + defaults[key].dump() + ")" : std::string());
  }
  return from_json(known);
}

nlohmann::json AdapterConfig::json() const {
  nlohmann::json all = fields_.json();
  for (const auto& option : entry_->fields) {
    const auto& beyond = entry_->beyond_peft;
    const bool left_out = std::find(beyond.begin(), beyond.end(), option.name) != beyond.end();
    if (left_out && all[option.name] == nlohmann::json::parse(option.fallback)) all.erase(option.name);
  }
  for (const auto& option : common_fields()) {
    const auto& value = common_.value(option.name);
    if (!neutral(value) || option.name == "inference_mode") all[option.name] = value;
  }
  all["peft_type"] = entry_->peft_type;
  return all;
}

std::vector<std::shared_ptr<const BoundMethod>> AdapterConfig::bind(const std::vector<Site>& sites) const {
  std::vector<nlohmann::json> options;
  std::string method;
  for (const auto& site : sites) {
    MethodCall call = entry_->translate(fields_, site);
    TORCH_INTERNAL_ASSERT(method.empty() || method == call.method, entry_->name, " names two methods");
    method = std::move(call.method);
    options.push_back(*call.options);
  }
  if (sites.empty()) return {};
  return bind_method(method, options, sites);
}

bool path_matches(const json& patterns, const std::string& path) {
  if (patterns.is_null()) return false;
  if (patterns.is_string()) return std::regex_match(path, pattern_of(patterns.get<std::string>()));
  VENEER_CHECK(patterns.is_array(), "config", "expected a list of names or a regular expression, got ",
               patterns.dump());
  return std::any_of(patterns.begin(), patterns.end(), [&](const json& item) {
    const auto name = item.get<std::string>();
    if (path == name) return true;
    const std::string tail = "." + name;
    return path.size() > tail.size() && path.compare(path.size() - tail.size(), tail.size(), tail) == 0;
  });
}

json pattern_value(const json& patterns, const std::string& path, const json& fallback) {
  for (const auto& [key, value] : patterns.items()) {
    if (std::regex_match(path, pattern_of("(.*\\.)?(" + key + ")"))) return value;
  }
  return fallback;
}

}  // namespace veneer
