// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What the C++ suites share: the case table, a small model, comparisons, folders that go away.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "veneer/veneer.h"

namespace veneer::test {

// tests/cases.json, or the file that VENEER_CASES names.
const nlohmann::json& cases();

// in (12 -> 8), two blocks [0] and [1] of first (8 -> 8), second (8 -> 8), norm and a site after them, and a plain
// head.
struct BlockImpl : torch::nn::Cloneable<BlockImpl> {
  BlockImpl() { reset(); }
  void reset() override;
  torch::Tensor forward(const torch::Tensor& x);

  Linear first{nullptr}, second{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  HiddenSite site{nullptr};
};
TORCH_MODULE(Block);

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl() { reset(); }
  void reset() override;
  torch::Tensor forward(const torch::Tensor& x);  // [*, 12] -> [*, 3]

  BlockImpl& block(size_t i) const { return *blocks->ptr<BlockImpl>(i); }

  Linear in{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Net);

// One layer or one site behind a name, in float64: what the rows of the table are tried on.
struct OneImpl : torch::nn::Cloneable<OneImpl> {
  OneImpl(bool hidden, int64_t d_in, int64_t d_out, bool bias = true);
  void reset() override;
  torch::Tensor forward(const torch::Tensor& x) { return hidden ? site(x) : layer(x); }

  bool hidden;
  int64_t d_in, d_out;
  bool bias;
  Linear layer{nullptr};
  HiddenSite site{nullptr};
  AdaptedLayer& adapted() { return hidden ? static_cast<AdaptedLayer&>(*site) : static_cast<AdaptedLayer&>(*layer); }
};
TORCH_MODULE(One);

// Fills an adapter's trainable tensors with noise: a zero factor would hide errors.
void randomize(torch::nn::Module& module, const std::string& adapter = "default");
// The adapter's own trainable tensors of one layer.
std::vector<torch::Tensor> own_tensors(const AdaptedLayer& layer, const std::string& adapter = "default");

torch::Tensor noise(at::IntArrayRef sizes, at::ScalarType type = at::kDouble);
testing::AssertionResult same(const torch::Tensor& a, const torch::Tensor& b);  // bit for bit, types and shapes too
testing::AssertionResult close(const torch::Tensor& a, const torch::Tensor& b, double rtol = 1e-10,
                               double atol = 1e-11);

// The text of the ValueError a call throws; the test fails if it throws none, or another type.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "expected a ValueError, got: " << error.what();
    return "";
  }
  ADD_FAILURE() << "expected a ValueError, got none";
  return "";
}
testing::AssertionResult has(const std::string& text, const std::string& part);

class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Not by std::filesystem: see src/checkpoint/new_file.h.
std::vector<std::string> files_under(const std::string& folder, const std::string& suffix = "");
std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& text);

// The folder of real data files: $VENEER_SHARED_DATA, or shared/data in a folder above; none on other machines.
std::optional<std::string> shared_data();

// One (row, options) of the table.
struct Row {
  std::string name;
  nlohmann::json options;
  std::string label;  // "circulant_1"
};
std::vector<Row> rows(const std::string& table);  // "matrices" or "methods"
// Whether a case starts at the base model; a row says with which options it does not.
bool starts_at_base(const std::string& table, const Row& row);
inline std::string label_of(const testing::TestParamInfo<Row>& info) { return info.param.label; }
inline void PrintTo(const Row& row, std::ostream* stream) { *stream << row.name << row.options.dump(); }

}  // namespace veneer::test
