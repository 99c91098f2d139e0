// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/config.h"

namespace veneer {
namespace {

using nlohmann::json;

constexpr std::array<const char*, 7> option_types{"integer", "number", "flag", "text", "matrix", "matrices", "any"};
constexpr std::array<const char*, 6> initial_kinds{"constant",        "normal",   "uniform",
                                                   "kaiming_uniform", "rotation", "derived"};
static_assert(option_types.size() == static_cast<size_t>(Option::Type::any) + 1);
static_assert(initial_kinds.size() == static_cast<size_t>(Initial::Kind::derived) + 1);
constexpr std::array<const char*, 3> compositions{"additive", "scaling", "exclusive"};

json bound_to_json(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json options_to_json(const OptionTable& table) {
  json rows = json::array();
  for (const auto& option : table) {
    rows.push_back({{"name", option.name},
                    {"type", option_types[static_cast<size_t>(option.type)]},
                    {"default", json::parse(option.fallback)},
                    {"help", option.help},
                    {"minimum", bound_to_json(option.minimum)},
                    {"maximum", bound_to_json(option.maximum)},
                    {"choices", option.choices},
                    {"annotation", option.annotation}});
  }
  return rows;
}

template <class Entry>
json entry_to_json(const Entry& entry) {
  return {{"summary", entry.summary},
          {"count", entry.count},
          {"source", entry.source},
          {"options", options_to_json(entry.options)}};
}

json parse(const std::string& text, const char* what) {
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  VENEER_CHECK(value.is_object(), "veneer", "expected ", what, " as a JSON object, got ", text);
  return value;
}

Site site_from_json(const std::string& text) {
  const json value = parse(text, "a site");
  Site site;
  const auto kind = value.value("kind", std::string("linear"));
  VENEER_CHECK(kind == "linear" || kind == "hidden", "veneer", "a site's kind must be one of: linear, hidden; got ",
               kind);
  site.kind = kind == "hidden" ? SiteKind::hidden : SiteKind::linear;
  site.d_in = value.at("d_in").get<int64_t>();
  site.d_out = value.at("d_out").get<int64_t>();
  site.has_weight = value.value("has_weight", site.kind == SiteKind::linear);
  site.has_bias = value.value("has_bias", false);
  site.path = value.value("path", std::string());
  site.layer = value.value("layer", int64_t{-1});
  site.role = value.value("role", std::string());
  return site;
}

}  // namespace

json specs_to_json(const ParameterSpecs& specs) {
  json all = json::array();
  for (const auto& spec : specs) {
    all.push_back({{"name", spec.name},
                   {"shape", spec.shape},
                   {"key", spec.key},
                   {"trainable", spec.trainable},
                   {"saved", spec.saved},
                   {"initial", initial_kinds[static_cast<size_t>(spec.initial.kind)]},
                   {"initial_a", spec.initial.a},
                   {"initial_b", spec.initial.b},
                   {"generator_seed", spec.generator_seed ? json(*spec.generator_seed) : json(nullptr)}});
  }
  return all;
}

ParameterSpecs specs_from_json(const json& value) {
  ParameterSpecs specs;
  for (const auto& item : value) {
    ParameterSpec spec;
    spec.name = item.at("name").get<std::string>();
    spec.shape = item.at("shape").get<std::vector<int64_t>>();
    spec.key = item.at("key").get<std::string>();
    spec.trainable = item.at("trainable").get<bool>();
    spec.saved = item.at("saved").get<bool>();
    const auto kind = std::find(initial_kinds.begin(), initial_kinds.end(), item.at("initial").get<std::string>());
    VENEER_CHECK(kind != initial_kinds.end(), "veneer", "unknown initial distribution ", item.at("initial").dump());
    spec.initial = {static_cast<Initial::Kind>(kind - initial_kinds.begin()), item.at("initial_a").get<double>(),
                    item.at("initial_b").get<double>()};
    if (!item.at("generator_seed").is_null()) spec.generator_seed = item.at("generator_seed").get<int64_t>();
    specs.push_back(std::move(spec));
  }
  return specs;
}

json registry_to_json() {
  json methods = json::object();
  for (const auto& name : method_names()) {
    const MethodEntry& entry = method_entry(name);
    methods[name] = entry_to_json(entry);
    for (const SiteKind kind : entry.sites)
      methods[name]["sites"].push_back(kind == SiteKind::linear ? "linear" : "hidden");
  }
  json matrices = json::object();
  for (const auto& name : matrix_names()) matrices[name] = entry_to_json(matrix_entry(name));
  json configs = json::object();
  for (const auto& type : config_types()) {
    const ConfigEntry& entry = config_entry(type);
    configs[type] = {{"name", entry.name}, {"summary", entry.summary}, {"fields", options_to_json(entry.fields)}};
  }
  return {{"methods", methods},
          {"matrices", matrices},
          {"configs", configs},
          {"common_fields", options_to_json(common_fields())}};
}

namespace {

json bound_to_json(const std::vector<std::shared_ptr<const BoundMethod>>& bound) {
  json sites = json::array();
  ParameterSpecs shared;
  for (const auto& site : bound) {
    const Method& method = *site->method;
    const auto split = site->specs.begin() + static_cast<int64_t>(site->own);
    shared.assign(split, site->specs.end());
    sites.push_back({{"method", site->name},
                     {"plan", site->plan},
                     {"own", specs_to_json({site->specs.begin(), split})},
                     {"mergeable", method.mergeable()},
                     {"merge_refusal", method.merge_refusal()},
                     {"changes_input", method.changes_input()},
                     {"composition", compositions[static_cast<size_t>(method.composition())]},
                     {"needs_weight", method.needs_weight()},
                     {"dropout", method.dropout()}});
  }
  return {{"sites", sites}, {"shared", specs_to_json(shared)}};
}

std::vector<Site> sites_from_json(const std::vector<std::string>& texts) {
  std::vector<Site> sites;
  for (const auto& text : texts) sites.push_back(site_from_json(text));
  return sites;
}

}  // namespace

json bind_to_json(const std::string& method, const std::vector<std::string>& options,
                  const std::vector<std::string>& sites) {
  std::vector<json> values;
  for (const auto& text : options) values.push_back(parse(text, "options"));
  return bound_to_json(bind_method(method, values, sites_from_json(sites)));
}

json bind_config_to_json(const std::string& config, const std::vector<std::string>& sites) {
  return bound_to_json(AdapterConfig::from_json(parse(config, "a config")).bind(sites_from_json(sites)));
}

json check_config_to_json(const std::string& config, bool file) {
  const json values = parse(config, "a config");
  return (file ? AdapterConfig::from_file(values) : AdapterConfig::from_json(values)).json();
}

}  // namespace veneer
