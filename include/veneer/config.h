// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Adapter configurations: what adapter_config.json holds, and the method it stands for. Names, types and defaults of
// the fields are HF PEFT's where PEFT has the method. Python's config classes are made from the entries registered
// here, so a method's file may announce its configuration too.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "veneer/options.h"
#include "veneer/registry.h"
#include "veneer/site.h"

namespace veneer {

// A method and its options (an object that its options table accepts).
struct MethodCall {
  std::string method;
  std::shared_ptr<const nlohmann::json> options;
};
MethodCall method_call(std::string method, const nlohmann::json& options);

struct ConfigEntry {
  std::string peft_type;  // "LORA": the value of "peft_type" in files
  std::string name;       // Python's class: "LoraConfig"
  std::string summary;    // one line
  OptionTable fields;     // the method's own fields; the common ones are `common_fields()`
  // Fields HF PEFT writes and this library does not support, with the value at which they change nothing (JSON object).
  std::string unsupported = "{}";
  // The method for one site. Sees the checked own fields.
  std::function<MethodCall(const Options& fields, const Site& site)> translate;
  // Own fields HF PEFT's class of the same name does not have: left out at their defaults, since it warns of them.
  std::vector<std::string> beyond_peft = {};
  // Checks what one field says about another, and fills in defaults that depend on others. Sees the checked own fields.
  std::function<void(nlohmann::json& fields)> complete = {};
};

struct RegisterConfig {
  explicit RegisterConfig(ConfigEntry entry);
};

// Fields of every configuration: target_modules, modules_to_save, task_type, ...
const OptionTable& common_fields();
std::vector<std::string> config_types();  // sorted peft_types
const ConfigEntry& config_entry(const std::string& peft_type);

// A checked configuration.
class AdapterConfig {
 public:
  // Every key must be a field of the entry (ValueError lists the known and the closest ones).
  static AdapterConfig from_json(const nlohmann::json& values);
  // A file may hold any field of HF PEFT's: one that is not supported is refused only where its value is not neutral
  // (its PEFT default, null, false, "", [] or {}).
  static AdapterConfig from_file(const nlohmann::json& values);

  const std::string& peft_type() const { return entry_->peft_type; }
  const Options& fields() const { return fields_; }
  // The complete object, common fields and "peft_type" included.
  nlohmann::json json() const;
  // The methods of all sites of one adapter, bound together (shared tensors are sized from all of them).
  std::vector<std::shared_ptr<const BoundMethod>> bind(const std::vector<Site>& sites) const;

 private:
  AdapterConfig(const ConfigEntry& entry, Options common, Options fields);
  const ConfigEntry* entry_;
  Options common_;
  Options fields_;
};

// Whether a module path is named by a pattern: a list of names matches a path that equals one or ends in "." + one; a
// string is a regular expression (ECMAScript) that must match the whole path. HF PEFT's rule.
bool path_matches(const nlohmann::json& patterns, const std::string& path);
// HF PEFT's rank_pattern and alpha_pattern: the value of the first key that, as a regular expression, matches the path
// or its end after a dot; else `fallback`.
nlohmann::json pattern_value(const nlohmann::json& patterns, const std::string& path, const nlohmann::json& fallback);

}  // namespace veneer
