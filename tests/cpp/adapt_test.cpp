// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Adapting a model: what matches, what trains, what is refused and how it says so.
#include "support.h"

namespace veneer::test {
namespace {

std::vector<std::string> paths(const Report& report) {
  std::vector<std::string> all;
  for (const auto& layer : report.layers) all.push_back(layer.path);
  return all;
}
using Paths = std::vector<std::string>;

template <class... Arguments>
std::string adapt_error(Arguments&&... arguments) {
  Net net;
  const std::string error = error_of([&] { adapt(*net, std::forward<Arguments>(arguments)...); });
  EXPECT_TRUE(adapter_names(*net).empty()) << "something was adapted although it failed";
  EXPECT_EQ(trainable_parameters(*net).size(), net->parameters().size()) << "something was frozen although it failed";
  return error;
}

TEST(Adapt, MatchesByPeftsRules) {
  const auto matched = [](const Targets& targets, const AdapterConfig& config = LoraOptions(2)) {
    Net net;
    return paths(adapt(*net, config, targets));
  };
  EXPECT_EQ(matched({"in"}), Paths{"in"});
  EXPECT_EQ(matched({"first"}), (Paths{"blocks.0.first", "blocks.1.first"}));
  EXPECT_EQ(matched({"0.first", "in"}), (Paths{"in", "blocks.0.first"}));
  EXPECT_EQ(matched(R"(blocks\.\d+\.(first|second))"),
            (Paths{"blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second"}));
  EXPECT_EQ(matched("all-linear").size(), 5U);
  EXPECT_EQ(matched("all-linear", LoraOptions(2).exclude_modules({"second"})),
            (Paths{"in", "blocks.0.first", "blocks.1.first"}));
  EXPECT_EQ(matched({"first"}, LoraOptions(2).layers_to_transform({1})), Paths{"blocks.1.first"});
  EXPECT_EQ(matched({"first"}, LoraOptions(2).layers_to_transform({0}).layers_pattern({"blocks"})),
            Paths{"blocks.0.first"});
  EXPECT_EQ(matched({"site"}, BottleneckOptions(2)), (Paths{"blocks.0.site", "blocks.1.site"}));
  EXPECT_EQ(matched(std::vector<std::string>{"in"}), Paths{"in"});
}

TEST(Adapt, ReportsWhatItDidAndPrintsIt) {
  Net net;
  const Report report = adapt(*net, SurmOptions("circulant"), {"in", "first"});
  EXPECT_EQ(report.adapter, "default");
  EXPECT_EQ(report.layers.size(), 3U);
  EXPECT_EQ(report.layers[0].parameters, 2 * 12 * 8 / 4);
  EXPECT_EQ(report.adapter_parameters, 48 + 16 + 16);
  EXPECT_EQ(report.trainable, 80);
  int64_t total = 0;
  for (const auto& parameter : net->parameters()) total += parameter.numel();
  EXPECT_EQ(report.total, total);
  std::ostringstream text;
  text << report;
  EXPECT_TRUE(has(text.str(), "adapter `default` on 3 layers\n"));
  EXPECT_TRUE(has(text.str(), "  in              additive  48\n"));
  EXPECT_TRUE(has(text.str(), "trainable parameters: 80 of " + std::to_string(total) + " ("));
}

TEST(Adapt, OnlyTheAdapterTrains) {
  Net net;
  adapt(*net, LoraOptions(2), {"first"});
  const auto parameters = trainable_parameters(*net);
  EXPECT_EQ(parameters.size(), 4U);
  torch::optim::SGD optimizer(parameters, 0.1);
  const torch::Tensor x = noise({6, 12}, at::kFloat);
  std::map<std::string, torch::Tensor> before;
  for (const auto& item : net->named_parameters()) before[item.key()] = item.value().detach().clone();
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    net(x).square().sum().backward();
    optimizer.step();
  }
  for (const auto& item : net->named_parameters()) {
    const bool ours = item.key().find("lora_") != std::string::npos;
    EXPECT_EQ(!at::equal(item.value(), before[item.key()]), ours) << item.key();
    EXPECT_EQ(item.value().grad().defined(), ours) << item.key();
  }
}

TEST(Adapt, NamesAreThoseOfTheSpecs) {
  Net net;
  adapt(*net, LoraOptions(2).use_dora(true), {"in"}, "task");
  const auto names = net->in->named_parameters().keys();
  EXPECT_EQ(names, (Paths{"weight", "bias", "lora_A__task", "lora_B__task", "magnitude__task"}));
}

TEST(Adapt, ModulesToSaveTrainWhole) {
  Net net;
  const Report report = adapt(*net, LoraOptions(2).modules_to_save({"head", "0.norm"}), {"in"});
  EXPECT_EQ(report.kept, (Paths{"blocks.0.norm.weight", "blocks.0.norm.bias", "head.weight", "head.bias"}));
  EXPECT_EQ(report.adapter_parameters, 2 * (12 + 8));
  EXPECT_EQ(report.trainable, 40 + 16 + 27);
  EXPECT_TRUE(net->head->weight.requires_grad());
  EXPECT_FALSE(net->block(1).norm->weight.requires_grad());
}

TEST(Adapt, BiasOptions) {
  Net none, only, all;
  EXPECT_TRUE(adapt(*none, LoraOptions(2), {"in", "second"}).kept.empty());
  EXPECT_EQ(adapt(*only, LoraOptions(2).bias("lora_only"), {"in", "second"}).kept, Paths{"in.bias"});
  EXPECT_EQ(adapt(*all, LoraOptions(2).bias("all"), {"in"}).kept,
            (Paths{"in.bias", "blocks.0.first.bias", "blocks.0.norm.bias", "blocks.1.first.bias", "blocks.1.norm.bias",
                   "head.bias"}));
  EXPECT_TRUE(all->head->bias.requires_grad());
  EXPECT_FALSE(all->head->weight.requires_grad());
}

TEST(Adapt, VeraSharesOnePair) {
  Net net;
  const Report report = adapt(*net, VeraOptions(4), {"in", "first"});
  EXPECT_EQ(report.adapter_parameters, 3 * (8 + 4));
  std::vector<std::string> pair;
  for (const auto& item : net->named_parameters()) {
    if (item.key().find("vera_A") != std::string::npos) pair.push_back(item.key());
  }
  EXPECT_EQ(pair, Paths{"in.vera_A__default"});
  const auto& a = net->in->adapter("default")->tensors.at(2);
  EXPECT_EQ(a.sizes(), (at::IntArrayRef{4, 12}));
  EXPECT_TRUE(net->block(1).first->adapter("default")->tensors.at(2).is_same(a));
}

TEST(Adapt, SaysWhatMatchesNothing) {
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets{"secnd"}),
                  "[target_modules] `secnd` matches no module; did you mean `second`?"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets{"in", "blocks.0.frist"}), "did you mean `blocks.0.first`?"));
  EXPECT_TRUE(
      has(adapt_error(LoraOptions(), Targets{"zzzzzzzz"}), "layers to adapt: in, first, blocks.0.first, second"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets("blok.*")), "`blok.*` matches no module"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets("(")), "expected a regular expression, got ("));
  EXPECT_TRUE(has(adapt_error(LoraOptions()), "expected target_modules, got none; layers to adapt: in, "));
  EXPECT_TRUE(has(adapt_error(LoraOptions().exclude_modules({"sceond"}), Targets{"in"}),
                  "[exclude_modules] `sceond` matches no module; did you mean `second`?"));
  EXPECT_TRUE(has(adapt_error(LoraOptions().exclude_modules({"in"}), Targets{"in"}), "leaves no layer to adapt"));
  EXPECT_TRUE(has(adapt_error(LoraOptions().layers_to_transform({7}), Targets{"first"}), "leaves no layer to adapt"));
  EXPECT_TRUE(has(adapt_error(LoraOptions().modules_to_save({"hed"}), Targets{"in"}),
                  "[modules_to_save] `hed` matches no module; did you mean `head`?"));
}

TEST(Adapt, SaysWhatCannotBeAdapted) {
  EXPECT_TRUE(
      has(adapt_error(LoraOptions(), Targets{"head"}),
          "`head` is a torch::nn::Linear, whose forward cannot be changed; expected it declared as veneer::Linear"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets{"norm"}), "`blocks.0.norm` is a torch::nn::LayerNormImpl"));
  EXPECT_TRUE(has(adapt_error(BottleneckOptions(), Targets{"first"}),
                  "[bottleneck] works at sites: hidden; got a linear site at blocks.0.first"));
  EXPECT_TRUE(has(adapt_error(Ia3Options(), Targets{"site"}), "[ia3] works at sites: linear; got a hidden site"));
  EXPECT_TRUE(has(adapt_error(LoraOptions().use_dora(true), Targets{"site"}), "needs the base layer's dense weight"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets{"first", "site"}), "got both; make two adapters"));
  EXPECT_TRUE(
      has(adapt_error(LoraOptions().modules_to_save({"blocks"}), Targets{"first"}), "both adapted and trained whole"));
  EXPECT_TRUE(has(adapt_error(LoraOptions(), Targets{"in"}, "a.b"), "a name must not be empty nor hold a dot"));
  EXPECT_TRUE(has(adapt_error(SurmOptions(), Targets("all-linear"), ""), "a name must not be empty"));
}

TEST(Adapt, ChecksOptions) {
  const auto error = [](auto options) { return error_of([&] { const AdapterConfig config = options; }); };
  EXPECT_TRUE(has(error(LoraOptions(0)), "[LoraConfig] r must be at least 1, got 0"));
  EXPECT_TRUE(has(error(SurmOptions("circular")), "structure must be one of: "));
  EXPECT_TRUE(has(error(BottleneckOptions().non_linearity("geluu")), "did you mean `gelu`?"));
  EXPECT_TRUE(has(error(AdditiveOptions("low_rnk")), "did you mean `low_rank`?"));
  EXPECT_TRUE(has(error(AdditiveOptions("{oops")), "expected a JSON object, got {oops"));
  EXPECT_TRUE(has(error(MethodOptions("additive", "[]")), "expected a JSON object, got []"));
  EXPECT_TRUE(has(adapt_error(MethodOptions("aditive"), Targets{"in"}), "did you mean `additive`?"));
  EXPECT_TRUE(
      has(adapt_error(MethodOptions("additive", R"({"dropuot": 0.1})"), Targets{"in"}), "did you mean `dropout`?"));
}

TEST(Adapt, OptionsReachTheMethod) {
  Net net;
  adapt(*net, LoraOptions(2).rank_pattern({{"in", 3}}).lora_alpha(6).alpha_pattern({{"blocks\\.0\\.first", 1.0}}),
        {"in", "first"});
  EXPECT_EQ(net->in->adapter("default")->tensors[0].size(0), 3);
  EXPECT_EQ(net->block(0).first->adapter("default")->tensors[0].size(0), 2);
  Net ia3;
  adapt(*ia3, Ia3Options().feedforward_modules({"second"}), {"first", "second"});
  EXPECT_EQ(ia3->block(0).first->adapter("default")->tensors[0].sizes(), (at::IntArrayRef{8, 1}));
  EXPECT_EQ(ia3->block(0).second->adapter("default")->tensors[0].sizes(), (at::IntArrayRef{1, 8}));
  Net additive;
  adapt(*additive, AdditiveOptions(R"({"name": "low_rank", "rank": 5})").dropout(0.1), {"in"});
  EXPECT_EQ(additive->in->adapter("default")->tensors[0].size(0), 5);
}

TEST(Adapt, ExplainNamesEachLayersWay) {
  Net net;
  EXPECT_TRUE(has(explain(*net), "base: no adapter"));
  adapt(*net, LoraOptions(2), {"in"});
  EXPECT_TRUE(has(explain(*net), "default: additive"));
  EXPECT_TRUE(has(explain(*net), "one op, which runs the base's product itself"));
  disable(*net);
  EXPECT_TRUE(has(explain(*net), "adapters are disabled"));
}

}  // namespace
}  // namespace veneer::test
