// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/options.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

using nlohmann::json;

std::vector<std::string> names_of(const OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& option : table) names.push_back(option.name);
  return names;
}

json checked_matrix(const std::string& owner, const std::string& key, const json& value) {
  json options = json::object();
  std::string name;
  if (value.is_string()) {
    name = value.get<std::string>();
  } else {
    VENEER_CHECK(value.is_object() && value.contains("name") && value["name"].is_string(), owner, key,
                 " must be a structured matrix: its name, or an object with \"name\" and its options; got ",
                 value.dump());
    name = value["name"].get<std::string>();
    options = value;
    options.erase("name");
  }
  const MatrixEntry& entry = matrix_entry(name);
  json complete = Options(name, entry.options, options).json();
  complete["name"] = name;
  return complete;
}

void check_range(const std::string& owner, const Option& option, double value) {
  if (value >= option.minimum && value <= option.maximum) return;  // false for NaN
  const bool above = option.maximum == std::numeric_limits<double>::infinity();
  VENEER_CHECK(false, owner, option.name,
               above ? c10::str(" must be at least ", option.minimum)
                     : c10::str(" must be in ", option.minimum, "..", option.maximum),
               ", got ", value);
}

json checked(const std::string& owner, const Option& option, const json& value);

json checked_by_module(const std::string& owner, const Option& option, const OptionTable& table, const json& values) {
  VENEER_CHECK(values.is_object() || values.is_null(), owner, option.name, " must be an object {pattern: value}, got ",
               values.dump());
  Option of = *std::find_if(table.begin(), table.end(), [&](const Option& other) { return other.name == option.of; });
  json all = json::object();
  for (const auto& [pattern, value] : values.items()) {
    of.name = c10::str(option.name, "[\"", pattern, "\"]");
    all[pattern] = checked(owner, of, value);
  }
  return all;
}

json checked(const std::string& owner, const Option& option, const json& value) {
  switch (option.type) {
    case Option::Type::integer: {
      const bool whole = value.is_number_integer() ||
                         (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()));
      VENEER_CHECK(whole, owner, option.name, " must be an integer, got ", value.dump());
      check_range(owner, option, value.get<double>());
      return value.get<int64_t>();
    }
    case Option::Type::number:
      VENEER_CHECK(value.is_number(), owner, option.name, " must be a number, got ", value.dump());
      check_range(owner, option, value.get<double>());
      return value.get<double>();
    case Option::Type::flag:
      VENEER_CHECK(value.is_boolean(), owner, option.name, " must be true or false, got ", value.dump());
      return value;
    case Option::Type::text: {
      VENEER_CHECK(value.is_string(), owner, option.name, " must be a string, got ", value.dump());
      const auto text = value.get<std::string>();
      const auto& choices = option.choices;
      VENEER_CHECK(choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end(), owner,
                   option.name, " must be one of: ", join(choices), "; got ", text, suggestion(text, choices));
      return value;
    }
    case Option::Type::matrix: return checked_matrix(owner, option.name, value);
    case Option::Type::matrices: {
      VENEER_CHECK(value.is_array() && !value.empty(), owner, option.name,
                   " must be a list of at least one structured matrix, got ", value.dump());
      json all = json::array();
      for (const auto& item : value) all.push_back(checked_matrix(owner, option.name, item));
      return all;
    }
    case Option::Type::any: return value;
  }
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace

Option Option::integer(std::string name, int64_t fallback, std::string help, double minimum, double maximum) {
  return {std::move(name), Type::integer, json(fallback).dump(), std::move(help), minimum, maximum};
}

Option Option::number(std::string name, double fallback, std::string help, double minimum, double maximum) {
  return {std::move(name), Type::number, json(fallback).dump(), std::move(help), minimum, maximum};
}

Option Option::flag(std::string name, bool fallback, std::string help) {
  return {std::move(name), Type::flag, json(fallback).dump(), std::move(help)};
}

Option Option::choice(std::string name, const std::string& fallback, std::string help,
                      std::vector<std::string> choices) {
  return {std::move(name), Type::text, json(fallback).dump(), std::move(help),
          -unbounded,      unbounded,  std::move(choices)};
}

Option Option::matrix(std::string name, const std::string& fallback, std::string help) {
  return {std::move(name), Type::matrix, json(fallback).dump(), std::move(help)};
}

Option Option::matrices(std::string name, std::string fallback, std::string help) {
  return {std::move(name), Type::matrices, std::move(fallback), std::move(help)};
}

Option Option::any(std::string name, std::string fallback, std::string help, std::string annotation) {
  return {std::move(name), Type::any, std::move(fallback),  std::move(help), -unbounded,
          unbounded,       {},        std::move(annotation)};
}

Option Option::by_module(std::string name, std::string of, std::string help, std::string annotation) {
  Option option = any(std::move(name), "{}", std::move(help), std::move(annotation));
  option.of = std::move(of);
  return option;
}

OptionTable operator+(OptionTable a, const OptionTable& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Options::Options(const std::string& owner, const OptionTable& table, const nlohmann::json& values)
    : values_(std::make_unique<nlohmann::json>(nlohmann::json::object())) {
  VENEER_CHECK(values.is_object() || values.is_null(), owner, "options must be a JSON object, got ", values.dump());
  for (const auto& [key, value] : values.items()) {
    const auto names = names_of(table);
    VENEER_CHECK(std::find(names.begin(), names.end(), key) != names.end(), owner, "unknown option `", key,
                 "`; known: ", join(names), suggestion(key, names));
  }
  for (const auto& option : table) {
    const auto found = values.find(option.name);
    const nlohmann::json value = found == values.end() ? json::parse(option.fallback) : *found;
    (*values_)[option.name] =
        option.of.empty() ? checked(owner, option, value) : checked_by_module(owner, option, table, value);
  }
}

Options::Options(const Options& other) : values_(std::make_unique<nlohmann::json>(*other.values_)) {}
Options::Options(Options&&) noexcept = default;
Options& Options::operator=(Options other) noexcept {
  values_.swap(other.values_);
  return *this;
}
Options::~Options() = default;

const json& Options::value(const std::string& name) const { return values_->at(name); }
int64_t Options::integer(const std::string& name) const { return values_->at(name).get<int64_t>(); }
double Options::number(const std::string& name) const { return values_->at(name).get<double>(); }
bool Options::flag(const std::string& name) const { return values_->at(name).get<bool>(); }
std::string Options::text(const std::string& name) const { return values_->at(name).get<std::string>(); }

namespace {

MatrixChoice choice_of(json matrix) {
  const auto name = matrix.at("name").get<std::string>();
  matrix.erase("name");
  return {name, {name, matrix_entry(name).options, matrix}};
}

}  // namespace

MatrixChoice Options::matrix(const std::string& name) const { return choice_of(values_->at(name)); }

std::vector<MatrixChoice> Options::matrices(const std::string& name) const {
  std::vector<MatrixChoice> all;
  for (const auto& matrix : values_->at(name)) all.push_back(choice_of(matrix));
  return all;
}

std::vector<int64_t> Options::sizes(const std::string& owner, const std::string& name) const {
  const nlohmann::json& value = values_->at(name);
  const bool sound = value.is_array() && std::all_of(value.begin(), value.end(), [](const nlohmann::json& size) {
                       return size.is_number_integer() && size > 0;
                     });
  VENEER_CHECK(sound, owner, name, " must be a list of positive integers, got ", value.dump());
  return value.get<std::vector<int64_t>>();
}

}  // namespace veneer
