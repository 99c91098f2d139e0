// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "data.h"

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace {

constexpr int64_t pixels = 64;
const std::vector<std::string> splits{"base_train", "base_test", "new_train", "new_test"};

std::vector<std::string> fields(const std::string& line) {
  std::vector<std::string> all;
  std::stringstream stream(line);
  for (std::string field; std::getline(stream, field, ',');) all.push_back(field);
  if (!all.empty() && !all.back().empty() && all.back().back() == '\r') all.back().pop_back();
  return all;
}

}  // namespace

Data read_csv(const std::string& path, torch::Device device) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path + "; `make quickstart` writes it, --smoke needs none");
  std::string line;
  std::getline(file, line);
  std::map<std::string, size_t> column;
  const auto header = fields(line);
  for (size_t i = 0; i < header.size(); ++i) column[header[i]] = i;
  for (const auto* name : {"p0", "p63", "label", "split"}) {
    if (column.count(name) == 0) throw std::runtime_error(path + " has no column " + name);
  }

  std::map<std::string, std::vector<float>> images;
  std::map<std::string, std::vector<int64_t>> labels;
  for (int number = 2; std::getline(file, line); ++number) {
    const auto row = fields(line);
    if (row.size() != header.size()) {
      throw std::runtime_error(path + ":" + std::to_string(number) + ": expected " + std::to_string(header.size()) +
                               " fields");
    }
    const std::string& split = row[column["split"]];
    for (int64_t i = 0; i < pixels; ++i)
      images[split].push_back(std::stof(row[column["p" + std::to_string(i)]]) / 16.0F);
    labels[split].push_back(std::stoll(row[column["label"]]));
  }
  Data data;
  for (const auto& split : splits) {
    if (labels[split].empty()) throw std::runtime_error(path + " has no rows of split " + split);
    data[split] = {torch::tensor(images[split]).view({-1, pixels}).to(device), torch::tensor(labels[split]).to(device)};
  }
  return data;
}

Data synthetic(torch::Device device) {
  Data data;
  for (const auto& split : splits) {
    constexpr int64_t count = 100;
    const int64_t first = split.rfind("base", 0) == 0 ? 0 : 5;
    const torch::Tensor labels = torch::arange(count) % 5 + first;
    torch::Tensor images = 0.2 * torch::rand({count, 8, 8});
    for (int64_t i = 0; i < count; ++i) {
      const int64_t digit = labels[i].item<int64_t>();
      (digit < 5 ? images[i][digit] : images[i].select(1, digit - 3)).add_(0.8);  // a row, or a column
    }
    data[split] = {images.view({count, pixels}).to(device), labels.to(device)};
  }
  return data;
}
