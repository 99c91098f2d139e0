// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "support.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace veneer::test {

const nlohmann::json& cases() {
  static const nlohmann::json table = [] {
    const char* path = std::getenv("VENEER_CASES");
    return nlohmann::json::parse(read_file(path != nullptr ? path : VENEER_TESTS_DIR "/cases.json"));
  }();
  return table;
}

void BlockImpl::reset() {
  first = register_module("first", Linear(8, 8));
  second = register_module("second", Linear(torch::nn::LinearOptions(8, 8).bias(false)));
  norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({8})));
  site = register_module("site", HiddenSite(8));
}

torch::Tensor BlockImpl::forward(const torch::Tensor& x) { return x + site(second(torch::gelu(first(norm(x))))); }

void NetImpl::reset() {
  in = register_module("in", Linear(12, 8));
  blocks = register_module("blocks", torch::nn::ModuleList(Block(), Block()));
  head = register_module("head", torch::nn::Linear(8, 3));
}

torch::Tensor NetImpl::forward(const torch::Tensor& x) {
  torch::Tensor h = in(x);
  for (const auto& block : *blocks) h = block->as<Block>()->forward(h);
  return head(h);
}

OneImpl::OneImpl(bool hidden_, int64_t d_in_, int64_t d_out_, bool bias_)
    : hidden(hidden_), d_in(d_in_), d_out(d_out_), bias(bias_) {
  reset();
  to(torch::kDouble);
}

void OneImpl::reset() {
  if (hidden) {
    site = register_module("part", HiddenSite(d_in));
  } else {
    layer = register_module("part", Linear(torch::nn::LinearOptions(d_in, d_out).bias(bias)));
  }
}

std::vector<torch::Tensor> own_tensors(const AdaptedLayer& layer, const std::string& adapter) {
  const LayerAdapter* part = layer.adapter(adapter);
  std::vector<torch::Tensor> tensors;
  for (size_t i = 0; i < part->tensors.size(); ++i) {
    if (part->bound->specs[i].trainable) tensors.push_back(part->tensors[i]);
  }
  return tensors;
}

void randomize(torch::nn::Module& module, const std::string& adapter) {
  const torch::NoGradGuard no_grad;
  for (const auto& item : module.named_modules("", false)) {
    const auto* layer = dynamic_cast<const AdaptedLayer*>(item.value().get());
    if (layer == nullptr || layer->adapter(adapter) == nullptr) continue;
    const double scale = 1.0 / std::sqrt(static_cast<double>(layer->site().d_in));
    for (const auto& tensor : own_tensors(*layer, adapter)) tensor.copy_(torch::randn_like(tensor) * scale);
  }
}

bool starts_at_base(const std::string& table, const Row& row) {
  const nlohmann::json given = cases().at(table).at(row.name).value("start", nlohmann::json::object());
  return given.empty() || std::any_of(given.items().begin(), given.items().end(), [&](const auto& item) {
           return row.options.value(item.key(), nlohmann::json()) != item.value();
         });
}

torch::Tensor noise(at::IntArrayRef sizes, at::ScalarType type) { return torch::randn(sizes, torch::dtype(type)); }

testing::AssertionResult same(const torch::Tensor& a, const torch::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) {
    return testing::AssertionFailure() << a.toString() << a.sizes() << " is not " << b.toString() << b.sizes();
  }
  if (at::equal(a, b)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs by up to " << (a - b).abs().max().item<double>();
}

testing::AssertionResult close(const torch::Tensor& a, const torch::Tensor& b, double rtol, double atol) {
  if (a.sizes() != b.sizes()) return testing::AssertionFailure() << a.sizes() << " is not " << b.sizes();
  if (at::allclose(a, b.to(a.scalar_type()), rtol, atol)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "differs by up to " << (a - b).abs().max().item<double>();
}

testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << text << "\" has no \"" << part << "\"";
}

TemporaryFolder::TemporaryFolder() : path_("/tmp/veneer_XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make a temporary folder");
}

TemporaryFolder::~TemporaryFolder() {
  const auto remove_one = [](const char* path, const struct stat*, int, FTW*) { return remove(path); };
  nftw(path_.c_str(), remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

std::vector<std::string> files_under(const std::string& folder, const std::string& suffix) {
  static std::vector<std::string> found;  // nftw hands its callback nothing of ours
  found.clear();
  const auto add = [](const char* path, const struct stat*, int type, FTW*) {
    if (type == FTW_F) found.emplace_back(path);
    return 0;
  };
  nftw(folder.c_str(), add, 16, FTW_PHYS);
  std::erase_if(found, [&](const std::string& path) { return !path.ends_with(suffix); });
  return found;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
}

std::optional<std::string> shared_data() {
  if (const char* path = std::getenv("VENEER_SHARED_DATA")) return path;
  std::string folder = VENEER_TESTS_DIR;
  for (size_t slash = folder.rfind('/'); slash != std::string::npos; slash = folder.rfind('/')) {
    folder.resize(slash);
    const std::string data = folder + "/shared/data";
    struct stat status {};
    if (stat(data.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return data;
  }
  return std::nullopt;
}

std::vector<Row> rows(const std::string& table) {
  std::vector<Row> all;
  for (const auto& [name, row] : cases().at(table).items()) {
    int count = 0;
    for (const auto& options : row.at("options")) all.push_back({name, options, name + "_" + std::to_string(count++)});
  }
  return all;
}

}  // namespace veneer::test
