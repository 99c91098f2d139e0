// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Base weights and adapter files: exact, strict, and whole after a failure.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "support.h"

namespace veneer::test {
namespace {

using nlohmann::json;
using Names = std::vector<std::string>;

Names keys(const std::string& path) {
  const SafetensorsFile file(path);
  Names names;
  for (const auto& [name, entry] : file.entries()) names.push_back(name);
  return names;
}

json config(const TemporaryFolder& folder) { return json::parse(read_file(folder / "adapter_config.json")); }

// A second net with the same base weights.
Net twin(const Net& net, const TemporaryFolder& folder) {
  save_weights(*net, folder / "base.safetensors");
  Net other;
  load_weights(*other, folder / "base.safetensors");
  return other;
}

TEST(Weights, LoadBeforeAndAfterAdapt) {
  const TemporaryFolder folder;
  Net trained;
  save_weights(*trained, folder / "w");
  EXPECT_EQ(keys(folder / "w").size(), trained->parameters().size());
  EXPECT_EQ(keys(folder / "w").back(), "in.weight");
  for (const AdapterConfig& adapter : {AdapterConfig(LoraOptions(2)), AdapterConfig(LoraOptions(2).use_dora(true)),
                                       AdapterConfig(VeraOptions(4)), AdapterConfig(Ia3Options())}) {
    Net before, after;
    load_weights(*before, folder / "w");
    adapt(*before, adapter, {"in", "first"});
    adapt(*after, adapter, {"in", "first"});
    load_weights(*after, folder / "w");
    const torch::Tensor x = noise({4, 12}, at::kFloat);
    EXPECT_TRUE(same(before(x), trained(x)));
    EXPECT_TRUE(same(after(x), trained(x)));  // DoRA's magnitude has started anew
    save_weights(*after, folder / "again");
    EXPECT_EQ(read_file(folder / "again"), read_file(folder / "w"));
  }
}

TEST(Weights, TrainedMagnitudesStay) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2).use_dora(true), {"in"});
  randomize(*net);
  const torch::Tensor magnitude = net->in->adapter("default")->tensors[2].detach().clone();
  save_weights(*Net(), folder / "w");
  load_weights(*net, folder / "w");
  EXPECT_TRUE(same(net->in->adapter("default")->tensors[2].detach(), magnitude));
}

TEST(Weights, StrictAndAllOrNothing) {
  const TemporaryFolder folder;
  Net net;
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : net->named_parameters()) tensors[item.key()] = at::zeros_like(item.value());
  tensors.erase("in.bias");
  tensors["extra"] = at::ones({1});
  tensors["head.weight"] = at::ones({3, 9});
  tensors["head.bias"] = at::ones({3}, at::kLong);
  write_safetensors(folder / "w", tensors);
  const torch::Tensor before = net->in->weight.detach().clone();
  const std::string error = error_of([&] { load_weights(*net, folder / "w"); });
  EXPECT_TRUE(has(
      error, "[load_weights] " + (folder / "w") + " does not fit this model; missing: in.bias; unexpected: extra; "));
  EXPECT_TRUE(has(error, "head.weight (expected [3, 8], got [3, 9])"));
  EXPECT_TRUE(has(error, "head.bias (expected Float, got Long)"));
  EXPECT_TRUE(same(net->in->weight.detach(), before));
}

TEST(Weights, ConvertBetweenFloatingPointTypes) {
  const TemporaryFolder folder;
  Net net, low;
  low->to(at::kBFloat16);
  save_weights(*low, folder / "w");
  load_weights(*net, folder / "w");
  EXPECT_TRUE(same(net->in->weight.detach(), low->in->weight.detach().to(at::kFloat)));
}

TEST(AdapterFiles, HavePeftsKeys) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2).use_dora(true).modules_to_save({"head"}).bias("lora_only"), {"in"}, "task");
  save_adapter(*net, folder / "", "task");
  EXPECT_EQ(keys(folder / "adapter_model.safetensors"),
            (Names{"base_model.model.head.bias", "base_model.model.head.weight", "base_model.model.in.base_layer.bias",
                   "base_model.model.in.lora_A.weight", "base_model.model.in.lora_B.weight",
                   "base_model.model.in.lora_magnitude_vector"}));
  EXPECT_EQ(SafetensorsFile(folder / "adapter_model.safetensors").metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
  const json written = config(folder);
  EXPECT_EQ(written["peft_type"], "LORA");
  EXPECT_EQ(written["r"], 2);
  EXPECT_EQ(written["use_dora"], true);
  EXPECT_EQ(written["target_modules"], json({"in"}));
  EXPECT_EQ(written["modules_to_save"], json({"head"}));
  EXPECT_EQ(written["inference_mode"], true);
}

TEST(AdapterFiles, SharedTensorsOnceAndHiddenSitesByWiring) {
  const TemporaryFolder folder;
  Net vera, bottleneck;
  adapt(*vera, VeraOptions(4), {"first"});
  save_adapter(*vera, folder / "vera");
  EXPECT_EQ(keys(folder / "vera/adapter_model.safetensors"),
            (Names{"base_model.model.blocks.0.first.vera_lambda_b", "base_model.model.blocks.0.first.vera_lambda_d",
                   "base_model.model.blocks.1.first.vera_lambda_b", "base_model.model.blocks.1.first.vera_lambda_d",
                   "base_model.vera_A", "base_model.vera_B"}));
  adapt(*bottleneck, BottleneckOptions(2), {"0.site"});
  save_adapter(*bottleneck, folder / "b");
  EXPECT_EQ(json::parse(read_file(folder / "b/adapter_config.json"))["target_modules"],
            json({{"output", {"blocks.0.site"}}}));
  EXPECT_EQ(keys(folder / "b/adapter_model.safetensors")[0].rfind("base_model.model.blocks.0.site.adapter_down.", 0),
            0U);
}

TEST(AdapterFiles, AllLinearIsWrittenAsPaths) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, SurmOptions(), "all-linear");
  save_adapter(*net, folder / "");
  EXPECT_EQ(config(folder)["target_modules"],
            json({"in", "blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second"}));
}

class RoundTrip : public testing::TestWithParam<int> {
 protected:
  static std::vector<std::pair<AdapterConfig, Targets>> all() {
    return {{LoraOptions(2).lora_alpha(5).use_rslora(true).modules_to_save({"head"}), {"in", "first"}},
            {LoraOptions(2).use_dora(true).bias("all"), "all-linear"},
            {LoraOptions(2).rank_pattern({{"in", 3}}), {"in", "first"}},
            {SurmOptions().scaling(0.5).bias("surm_only"), R"(blocks\.\d\.first)"},
            {Ia3Options().feedforward_modules({"second"}), {"first", "second"}},
            {VeraOptions(4), {"in", "first"}},
            {VeraOptions(4).save_projection(false).projection_prng_key(3), {"in", "first"}},
            {BottleneckOptions(2), {"site"}},
            {BottleneckOptions(2).matrix("circulant").scaling(0.5), {"1.site"}},
            {AdditiveOptions(R"({"name": "low_rank", "rank": 3})"), {"site"}},
            {MethodOptions("additive", R"({"matrix": "circulant"})"), {"in"}}};
  }
};

TEST_P(RoundTrip, IsExact) {
  const auto [adapter, targets] = all()[static_cast<size_t>(GetParam())];
  const TemporaryFolder folder;
  Net net;
  adapt(*net, adapter, targets);
  randomize(*net);
  {
    const torch::NoGradGuard no_grad;
    for (const auto& parameter : trainable_parameters(*net)) parameter.add_(0.01);
  }
  save_adapter(*net, folder / "out");
  Net other = [&] {
    Net plain;
    save_weights(*net, folder / "base");
    load_weights(*plain, folder / "base");
    return plain;
  }();
  {
    const torch::NoGradGuard no_grad;
    other->head->bias.add_(1);  // a head saved with the adapter comes from its file
  }
  if (net->in->adapters().empty() || net->in->adapters()[0].adapter->kept.empty())
    load_weights(*other, folder / "base");
  const Report report = load_adapter(*other, folder / "out", "loaded");
  const torch::Tensor x = noise({4, 12}, at::kFloat);
  {
    const torch::NoGradGuard no_grad;  // a layer whose bias is trained takes another path, which rounds otherwise
    EXPECT_TRUE(same(other(x), net(x)));
  }
  EXPECT_TRUE(trainable_parameters(*other).empty());
  EXPECT_EQ(report.layers.size(), static_cast<size_t>(std::count_if(report.layers.begin(), report.layers.end(),
                                                                    [](const auto& l) { return !l.path.empty(); })));
  // Saved again, it is the same adapter, byte for byte.
  save_adapter(*other, folder / "again", "loaded");
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    EXPECT_EQ(read_file((folder / "again/") + name), read_file((folder / "out/") + name)) << name;
  }
}
INSTANTIATE_TEST_SUITE_P(AdapterFiles, RoundTrip, testing::Range(0, 11));

TEST(AdapterFiles, LoadedToTrainOn) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2).modules_to_save({"head"}), {"in"});
  save_adapter(*net, folder / "a");
  Net other = twin(net, folder);
  const Report report = load_adapter(*other, folder / "a", "default", /*trainable=*/true);
  EXPECT_EQ(trainable_parameters(*other).size(), 4U);
  EXPECT_EQ(report.trainable, 40 + 27);
  EXPECT_TRUE(has(error_of([&] { load_adapter(*other, folder / "a"); }), "`default` exists already"));
}

TEST(AdapterFiles, MergedAdaptersSaveTheirOwnTensors) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2), {"in"});
  randomize(*net);
  save_adapter(*net, folder / "a");
  merge(*net);
  save_adapter(*net, folder / "b");
  EXPECT_EQ(read_file(folder / "a/adapter_model.safetensors"), read_file(folder / "b/adapter_model.safetensors"));
}

TEST(AdapterFiles, SayWhatDoesNotFit) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2), {"in", "first"});
  save_adapter(*net, folder / "");
  const std::string tensors_path = folder / "adapter_model.safetensors";
  const json good = config(folder);
  const std::string good_tensors = read_file(tensors_path);
  const auto error = [&] {
    Net other;
    const std::string text = error_of([&] { load_adapter(*other, folder / ""); });
    EXPECT_TRUE(adapter_names(*other).empty());
    EXPECT_EQ(trainable_parameters(*other).size(), other->parameters().size());
    return text;
  };
  const auto with = [&](const json& more) {
    json changed = good;
    changed.update(more);
    write_file(folder / "adapter_config.json", changed.dump());
    return error();
  };
  EXPECT_TRUE(has(with({{"target_modules", {"in"}}}), "unexpected: base_model.model.blocks.0.first.lora_A.weight, "));
  EXPECT_TRUE(has(with({{"target_modules", {"in", "first", "second"}}}),
                  "missing: base_model.model.blocks.0.second.lora_A.weight, "));
  EXPECT_TRUE(has(with({{"r", 3}}),
                  "wrong shape or type: base_model.model.blocks.0.first.lora_A.weight (expected [3, 8], got [2, 8])"));
  EXPECT_TRUE(has(with({{"use_dora", true}}), "missing: base_model.model.blocks.0.first.lora_magnitude_vector"));
  EXPECT_TRUE(has(with({{"target_modules", {"query"}}}), "leaves no layer to adapt"));
  EXPECT_TRUE(has(with({{"target_modules", {"head"}}}), "`head` is a torch::nn::Linear"));
  EXPECT_TRUE(has(with({{"peft_type", "LORAX"}}), "did you mean `LORA`?"));
  EXPECT_TRUE(has(with({{"lora_bias", true}}), "the file asks for `lora_bias` = true, which is not supported"));
  EXPECT_TRUE(has(with({{"peft_type", nullptr}}), "expected a field peft_type"));
  write_file(folder / "adapter_config.json", "{");
  EXPECT_TRUE(has(error(), "is not a JSON object"));
  unlink((folder / "adapter_config.json").c_str());
  EXPECT_TRUE(has(error(), "cannot open " + (folder / "adapter_config.json")));
  write_file(folder / "adapter_config.json", good.dump());
  write_file(tensors_path, good_tensors.substr(0, good_tensors.size() / 2));
  EXPECT_TRUE(has(error(), "[safetensors] "));
}

TEST(AdapterFiles, WithoutTargetsTheKeysNameTheLayers) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2), {"in", "1.first"});
  randomize(*net);
  save_adapter(*net, folder / "");
  json changed = config(folder);
  changed.erase("target_modules");
  changed["lora_bias"] = false;  // fields of PEFT's that ask for nothing are fine
  changed["layer_replication"] = nullptr;
  write_file(folder / "adapter_config.json", changed.dump());
  Net other = twin(net, folder);
  EXPECT_EQ(load_adapter(*other, folder / "").layers.size(), 2U);
  const torch::Tensor x = noise({4, 12}, at::kFloat);
  EXPECT_TRUE(same(other(x), net(x)));
}

TEST(AdapterFiles, WiringMustBeTheSites) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, BottleneckOptions(2), {"site"});
  save_adapter(*net, folder / "");
  json changed = config(folder);
  changed["target_modules"] = {{"norm", changed["target_modules"]["output"]}};
  write_file(folder / "adapter_config.json", changed.dump());
  Net other;
  EXPECT_TRUE(
      has(error_of([&] { load_adapter(*other, folder / ""); }),
          "`blocks.0.site` is expected to be a veneer::HiddenSite of wiring `norm`, got a site of wiring `output`"));
}

TEST(AdapterFiles, FailedSaveLeavesTheOldFiles) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2), {"in"});
  save_adapter(*net, folder / "a");
  const std::string before = read_file(folder / "a/adapter_model.safetensors");
  const std::string before_config = read_file(folder / "a/adapter_config.json");
  randomize(*net);
  mkdir(((folder / "a/adapter_config.json.") + std::to_string(getpid()) + ".tmp").c_str(),
        0777);  // the second file fails
  EXPECT_TRUE(has(error_of([&] { save_adapter(*net, folder / "a"); }), "cannot write "));
  EXPECT_EQ(read_file(folder / "a/adapter_model.safetensors"), before);
  EXPECT_EQ(read_file(folder / "a/adapter_config.json"), before_config);
  write_file(folder / "file", "");
  EXPECT_TRUE(has(error_of([&] { save_adapter(*net, folder / "file/out"); }), "cannot make the folder"));
  EXPECT_TRUE(
      has(error_of([&] { save_adapter(*net, folder / "a", "dflt"); }), "no adapter is called `dflt`; known: default"));
}

TEST(AdapterFiles, PlainTrainedBiasIsReadToo) {
  const TemporaryFolder folder;
  Net net;
  adapt(*net, LoraOptions(2).bias("lora_only"), {"in"});
  save_adapter(*net, folder / "");
  const std::string path = folder / "adapter_model.safetensors";
  std::map<std::string, at::Tensor> tensors;
  {
    const SafetensorsFile file(path);
    for (const auto& [name, entry] : file.entries()) tensors[name] = file.tensor(name).clone();
  }
  tensors["base_model.model.in.bias"] = at::full({8}, 3.0F);
  tensors.erase("base_model.model.in.base_layer.bias");
  write_safetensors(path, tensors);
  Net other;
  load_adapter(*other, folder / "");
  EXPECT_TRUE(same(other->in->bias.detach(), at::full({8}, 3.0F)));
}

}  // namespace
}  // namespace veneer::test
