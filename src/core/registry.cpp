// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/registry.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "veneer/check.h"

namespace veneer {
namespace {

using nlohmann::json;

template <class Entry>
std::map<std::string, Entry>& entries() {
  static std::map<std::string, Entry> all;  // constructed at first use: registrars run in any order
  return all;
}

template <class Entry>
void add(Entry entry, const char* what) {
  const std::string name = entry.name;
  const bool added = entries<Entry>().emplace(name, std::move(entry)).second;
  TORCH_INTERNAL_ASSERT(added, what, " `", name, "` is registered twice");
}

template <class Entry>
std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, entry] : entries<Entry>()) all.push_back(name);
  return all;
}

template <class Entry>
const Entry& find(const std::string& name, const char* what) {
  const auto found = entries<Entry>().find(name);
  VENEER_CHECK(found != entries<Entry>().end(), "veneer", "unknown ", what, " `", name,
               "`; known: ", join(names<Entry>()), suggestion(name, names<Entry>()));
  return found->second;
}

std::string site_name(SiteKind kind) { return kind == SiteKind::linear ? "linear" : "hidden"; }

// The part of a site that the mathematics depends on. Without the path, so that layers of one shape share one plan;
// with layer and role where the method is `placed`.
json site_json(const Site& site, bool placed) {
  json value{{"kind", site_name(site.kind)},
             {"d_in", site.d_in},
             {"d_out", site.d_out},
             {"weight", site.has_weight},
             {"bias", site.has_bias}};
  if (placed) value.update({{"layer", site.layer}, {"role", site.role}});
  return value;
}

Site site_from(const json& value) {
  Site site;
  site.kind = value.at("kind") == "hidden" ? SiteKind::hidden : SiteKind::linear;
  site.d_in = value.at("d_in").get<int64_t>();
  site.d_out = value.at("d_out").get<int64_t>();
  site.has_weight = value.at("weight").get<bool>();
  site.has_bias = value.at("bias").get<bool>();
  site.layer = value.value("layer", site.layer);
  site.role = value.value("role", site.role);
  return site;
}

std::shared_ptr<const Method> bind_one(const MethodEntry& entry, const Options& options, const Site& site) {
  const bool supported = std::find(entry.sites.begin(), entry.sites.end(), site.kind) != entry.sites.end();
  std::vector<std::string> sites;
  for (const SiteKind kind : entry.sites) sites.push_back(site_name(kind));
  VENEER_CHECK(supported, entry.name, "works at sites: ", join(sites), "; got a ", site_name(site.kind), " site",
               site.path.empty() ? "" : " at " + site.path);
  VENEER_CHECK(site.d_in > 0 && site.d_out > 0, entry.name, "a site needs positive sizes, got d_in ", site.d_in,
               " and d_out ", site.d_out);
  VENEER_CHECK(site.kind == SiteKind::linear || site.d_in == site.d_out, entry.name,
               "a hidden site has d_in == d_out, got ", site.d_in, " and ", site.d_out);
  return entry.bind(options, site);
}

}  // namespace

RegisterMatrix::RegisterMatrix(MatrixEntry entry) { add(std::move(entry), "matrix"); }
RegisterMethod::RegisterMethod(MethodEntry entry) { add(std::move(entry), "method"); }

std::vector<std::string> matrix_names() { return names<MatrixEntry>(); }
std::vector<std::string> method_names() { return names<MethodEntry>(); }
const MatrixEntry& matrix_entry(const std::string& name) { return find<MatrixEntry>(name, "structured matrix"); }
const MethodEntry& method_entry(const std::string& name) { return find<MethodEntry>(name, "method"); }

std::shared_ptr<const Matrix> bind_matrix(const MatrixChoice& matrix, const MatrixSite& site) {
  return matrix_entry(matrix.name).bind(matrix.options, site);
}

ParameterSpecs shared_of(const MatrixChoice& matrix, const std::vector<MatrixSite>& sites) {
  const MatrixEntry& entry = matrix_entry(matrix.name);
  return entry.shared ? entry.shared(matrix.options, sites) : ParameterSpecs{};
}

std::vector<std::shared_ptr<const BoundMethod>> bind_method(const std::string& method, const std::vector<json>& options,
                                                            const std::vector<Site>& sites) {
  const MethodEntry& entry = method_entry(method);
  VENEER_CHECK(options.size() == 1 || options.size() == sites.size(), method,
               "expected options for one or for each of ", sites.size(), " sites, got ", options.size());
  std::vector<Options> parsed;
  for (const auto& value : options) parsed.emplace_back(method, entry.options, value);

  // Shared tensors are sized from all sites; what may differ between sites (scales, ranks) does not concern them, so
  // the first site's options stand for all.
  const ParameterSpecs shared = entry.shared && !sites.empty() ? entry.shared(parsed.front(), sites) : ParameterSpecs{};
  json shared_json = json::array();
  for (const auto& spec : shared)
    shared_json.push_back({{"name", spec.name}, {"trainable", spec.trainable}, {"common", spec.common}});

  std::vector<std::shared_ptr<const BoundMethod>> bound;
  for (size_t i = 0; i < sites.size(); ++i) {
    const Options& own = parsed.size() == 1 ? parsed.front() : parsed[i];
    auto one = std::make_shared<BoundMethod>();
    one->name = method;
    try {
      one->method = bind_one(entry, own, sites[i]);
    } catch (const c10::ValueError& error) {
      // Name the layer: of many matched modules the user needs to know which one does not fit.
      if (sites[i].path.empty()) throw;
      TORCH_CHECK_VALUE(false, error.what_without_backtrace(), " (at ", sites[i].path, ")");
    }
    one->specs = one->method->parameters();
    one->own = one->specs.size();
    one->specs.insert(one->specs.end(), shared.begin(), shared.end());
    one->plan =
        json{{"options", own.json()}, {"site", site_json(sites[i], one->method->placed())}, {"shared", shared_json}}
            .dump();
    bound.push_back(std::move(one));
  }
  return bound;
}

std::shared_ptr<const BoundMethod> from_plan(const std::string& method, const std::string& plan) {
  // By plan, whose text nearly always tells the method too: asked for several times a step, so no key is put together.
  static std::mutex mutex;
  static std::unordered_multimap<std::string, std::shared_ptr<const BoundMethod>> cache;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto [first, last] = cache.equal_range(plan);
    const auto found = std::find_if(first, last, [&](const auto& entry) { return entry.second->name == method; });
    if (found != last) return found->second;
  }
  const MethodEntry& entry = method_entry(method);
  const json parsed = json::parse(plan, nullptr, /*allow_exceptions=*/false);
  VENEER_CHECK(parsed.is_object() && parsed.contains("options") && parsed.contains("site") && parsed.contains("shared"),
               method, "expected a plan made by veneer::bind_method, got ", plan);
  auto bound = std::make_shared<BoundMethod>();
  bound->name = method;
  const Site site = site_from(parsed["site"]);
  bound->d_in = site.d_in, bound->d_out = site.d_out;
  bound->method = bind_one(entry, Options(method, entry.options, parsed["options"]), site);
  bound->specs = bound->method->parameters();
  bound->own = bound->specs.size();
  for (const auto& shared : parsed["shared"]) {
    ParameterSpec spec;
    spec.name = shared.at("name").get<std::string>();
    spec.trainable = shared.at("trainable").get<bool>();
    spec.common = shared.at("common").get<bool>();
    bound->specs.push_back(std::move(spec));
  }
  bound->plan = plan;
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(plan, std::move(bound))->second;
}

bool composed_only() {
  static const char* const variable = std::getenv("VENEER_COMPOSED");
  return variable != nullptr && std::string(variable) == "1";
}

const std::string& call_id() {
  static const std::string id = std::string(build_id()) + (composed_only() ? "-composed" : "");
  return id;
}

}  // namespace veneer
