// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Adapters that Hugging Face PEFT saved (peft_files, written by make_peft_files.py) load with PEFT's outputs, and what
// we save of them has PEFT's keys and bytes.
#include "support.h"

namespace veneer::test {
namespace {

const std::string folder = std::string(VENEER_TESTS_DIR) + "/cpp/peft_files/";

class PeftFiles : public testing::TestWithParam<std::string> {
 protected:
  static Net base(const SafetensorsFile& tensors, const TemporaryFolder& scratch) {
    std::map<std::string, at::Tensor> weights;
    for (const auto& [name, entry] : tensors.entries()) {
      if (name.starts_with("base.")) weights[name.substr(5)] = tensors.tensor(name);
    }
    write_safetensors(scratch / "base", weights);
    Net net;
    load_weights(*net, scratch / "base");
    return net;
  }
};

TEST_P(PeftFiles, LoadWithPeftsOutputsAndSaveAsPeftDoes) {
  const TemporaryFolder scratch;
  const SafetensorsFile tensors(folder + "tensors.safetensors");
  Net net = base(tensors, scratch);
  net->eval();
  load_adapter(*net, folder + GetParam());
  EXPECT_TRUE(close(net(tensors.tensor("x")), tensors.tensor("y." + GetParam()), 1e-5, 1e-5));

  save_adapter(*net, scratch / "again");
  const SafetensorsFile theirs(folder + GetParam() + "/adapter_model.safetensors");
  const SafetensorsFile ours(scratch / "again/adapter_model.safetensors");
  ASSERT_EQ(ours.entries().size(), theirs.entries().size());
  for (const auto& [name, entry] : theirs.entries()) EXPECT_TRUE(same(ours.tensor(name), theirs.tensor(name))) << name;

  // Ours loads again, and in float64 too.
  Net other = base(tensors, scratch);
  other->to(at::kDouble);
  load_adapter(*other, scratch / "again");
  EXPECT_TRUE(close(other(tensors.tensor("x").to(at::kDouble)), tensors.tensor("y." + GetParam()), 1e-5, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Methods, PeftFiles,
                         testing::Values("lora", "rslora_patterns", "dora", "lora_only", "ia3", "vera", "vera_redrawn"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace veneer::test
