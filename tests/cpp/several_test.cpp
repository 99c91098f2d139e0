// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Several adapters on one model: how they act together, merging, and what is refused meanwhile.
#include "support.h"

namespace veneer::test {
namespace {

using Names = std::vector<std::string>;

// A layer in float64 with adapters a, b, ... of the given methods, all random.
One several(const std::vector<MethodOptions>& methods, bool hidden = false) {
  One net(hidden, 12, hidden ? 12 : 8);
  char name = 'a';
  for (const auto& method : methods) {
    adapt(*net, method, {"part"}, std::string(1, name));
    randomize(*net, std::string(1, name++));
  }
  return net;
}

const MethodOptions lora("additive", R"({"matrix": {"name": "low_rank", "rank": 2}})");
const MethodOptions circulant("additive", R"({"matrix": "circulant"})");
const MethodOptions dora("additive", R"({"matrix": {"name": "low_rank", "rank": 2}, "decompose": true})");
const MethodOptions outputs("ia3", R"({"position": "output"})");
const MethodOptions inputs("ia3", R"({"position": "input"})");
const MethodOptions bottleneck("bottleneck", R"({"size": 3})");

TEST(Several, FirstActsUntilOthersAreMadeActive) {
  One net = several({lora, circulant});
  EXPECT_EQ(adapter_names(*net), (Names{"a", "b"}));
  EXPECT_EQ(active_adapters(*net), (Names{"a"}));
  EXPECT_EQ(trainable_parameters(*net).size(), 2U);
  set_active(*net, {"b"});
  EXPECT_EQ(active_adapters(*net), (Names{"b"}));
  for (const auto& tensor : own_tensors(*net->layer, "a")) EXPECT_FALSE(tensor.requires_grad());
  for (const auto& tensor : own_tensors(*net->layer, "b")) EXPECT_TRUE(tensor.requires_grad());
  set_active(*net, {});
  EXPECT_TRUE(trainable_parameters(*net).empty());
  std::ostringstream text;
  One other = several({lora});
  text << adapt(*other, circulant, {"part"}, "b");
  EXPECT_TRUE(has(text.str(), "(inactive: see set_active)"));
}

TEST(Several, AdditiveOnesSum) {
  One net = several({lora, circulant});
  const torch::Tensor x = noise({5, 12});
  const torch::Tensor base = at::linear(x, net->layer->weight, net->layer->bias);
  const torch::Tensor a = net(x);
  set_active(*net, {"b"});
  const torch::Tensor b = net(x);
  set_active(*net, {"a", "b"});
  EXPECT_TRUE(close(net(x), a + b - base));
  EXPECT_TRUE(has(explain(*net), "2 updates summed onto one base product"));
  net->eval();
  merge(*net);
  EXPECT_TRUE(close(net(x), a + b - base));
}

TEST(Several, ScalingsMultiply) {
  One net = several({outputs, inputs, outputs, inputs});
  set_active(*net, {"a", "b", "c", "d"});
  const torch::Tensor x = noise({5, 12});
  const auto l = [&](const char* name) { return own_tensors(*net->layer, name).front().flatten(); };
  const torch::Tensor expected =
      at::linear(x * l("b") * l("d"), net->layer->weight, net->layer->bias) * l("a") * l("c");
  EXPECT_TRUE(close(net(x), expected));
  net->eval();
  const torch::Tensor weight = net->layer->weight.clone(), bias = net->layer->bias.clone();
  merge(*net);
  EXPECT_TRUE(close(net(x), expected));
  unmerge(*net);
  EXPECT_TRUE(same(net->layer->weight, weight));
  EXPECT_TRUE(same(net->layer->bias, bias));
}

TEST(Several, AnythingElseBesideAnotherIsRefused) {
  for (const auto& [first, second] : {std::pair{lora, dora}, {dora, dora}, {lora, outputs}, {outputs, lora}}) {
    One net = several({first, second});
    const torch::Tensor x = noise({5, 12});
    const torch::Tensor before = net(x);
    const std::string error = error_of([&] { set_active(*net, {"a", "b"}); });
    EXPECT_TRUE(has(
        error, "cannot act together on part: additive ones sum, diagonal scalings multiply, anything else acts alone"));
    EXPECT_EQ(active_adapters(*net), (Names{"a"}));
    EXPECT_TRUE(same(net(x), before));
  }
  One net = several({bottleneck, MethodOptions("additive", R"({"matrix": "circulant"})")}, /*hidden=*/true);
  EXPECT_TRUE(has(error_of([&] {
                    set_active(*net, {"a", "b"});
                  }),
                  "adapters `a` (bottleneck, acts alone) and `b` (additive, sums) cannot act together"));
}

TEST(Several, UnknownAndRepeatedNamesAreRefused) {
  One net = several({lora, circulant});
  EXPECT_TRUE(has(error_of([&] { set_active(*net, {"a", "c"}); }), "no adapter is called `c`; known: a, b"));
  EXPECT_TRUE(has(error_of([&] { delete_adapter(*net, "c"); }), "no adapter is called `c`"));
  EXPECT_TRUE(has(error_of([&] { adapt(*net, lora, {"part"}, "a"); }), "`a` exists already"));
  EXPECT_EQ(active_adapters(*net), (Names{"a"}));
}

TEST(Several, DeletedAdaptersLeaveNothing) {
  Net net;
  const auto before = net->named_parameters().keys();
  adapt(*net, VeraOptions(4).modules_to_save({"head"}), {"in", "first"});
  adapt(*net, LoraOptions(2), {"in"}, "b");
  delete_adapter(*net, "default");
  EXPECT_FALSE(net->head->weight.requires_grad());
  delete_adapter(*net, "b");
  EXPECT_EQ(net->named_parameters().keys(), before);
}

TEST(Several, OneModuleIsTrainedInPlaceByOneAdapter) {
  Net net;
  adapt(*net, LoraOptions(2).modules_to_save({"head"}), {"in"}, "a");
  EXPECT_TRUE(has(error_of([&] { adapt(*net, LoraOptions(2).modules_to_save({"head"}), {"in"}, "b"); }),
                  "`head.weight` is trained in place by adapter `a` already"));
  adapt(*net, LoraOptions(2), {"in"}, "b");
  EXPECT_TRUE(net->head->weight.requires_grad());
  set_active(*net, {"b"});
  EXPECT_FALSE(net->head->weight.requires_grad());
  set_active(*net, {"a"});
  EXPECT_TRUE(net->head->weight.requires_grad());
}

TEST(Several, HiddenSitesSumAdditiveOnes) {
  One net = several({lora, MethodOptions("additive", R"({"matrix": "circulant"})")}, /*hidden=*/true);
  const torch::Tensor z = noise({5, 12}), y = noise({5, 12});
  const torch::Tensor a = net->site(z, y);
  set_active(*net, {"b"});
  const torch::Tensor b = net->site(z, y);
  set_active(*net, {"a", "b"});
  EXPECT_TRUE(close(net->site(z, y), a + b - y));
  EXPECT_TRUE(close(net->site(z), net->site(z, z)));
}

TEST(Merge, TrainingAndChangesAreRefusedWhileMerged) {
  Net net;
  adapt(*net, LoraOptions(2), {"in"}, "a");
  adapt(*net, LoraOptions(2), {"in"}, "b");
  randomize(*net, "a");
  merge(*net);
  const torch::Tensor x = noise({5, 12}, at::kFloat);
  EXPECT_TRUE(has(error_of([&] { net(x); }), "merged adapters do not train"));
  {
    const torch::NoGradGuard no_grad;
    net(x);
  }
  EXPECT_TRUE(has(explain(*net), "base with the merged weight"));
  const std::string expected = "`in` is merged; expected unmerge() before ";
  EXPECT_TRUE(has(error_of([&] { merge(*net); }), expected));
  EXPECT_TRUE(has(error_of([&] { set_active(*net, {"b"}); }), expected));
  EXPECT_TRUE(has(error_of([&] { delete_adapter(*net, "b"); }), expected));
  EXPECT_TRUE(has(error_of([&] { adapt(*net, LoraOptions(2), {"in"}, "c"); }), expected));
  const TemporaryFolder folder;
  EXPECT_TRUE(has(error_of([&] { save_weights(*net, folder / "w"); }), expected));
  EXPECT_TRUE(has(error_of([&] { load_weights(*net, folder / "w"); }), expected));
  std::stringstream stream;
  EXPECT_TRUE(has(error_of([&] { torch::save(net, stream); }), "expected unmerged weights to save"));
  unmerge(*net);
  EXPECT_TRUE(has(error_of([&] { unmerge(*net); }), "expected a merged model"));
}

TEST(Merge, DisabledAndClonedWhileMergedGiveTheUnmergedTruth) {
  One net = several({lora});
  net->eval();
  const torch::Tensor x = noise({5, 12});
  const torch::Tensor base = at::linear(x, net->layer->weight, net->layer->bias), weight = net->layer->weight.clone();
  merge(*net);
  disable(*net);
  EXPECT_TRUE(same(net(x), base));
  enable(*net);
  auto copy = std::dynamic_pointer_cast<OneImpl>(net->clone());
  EXPECT_TRUE(same(copy->forward(x), net(x)));
  unmerge(*copy);
  EXPECT_TRUE(same(copy->layer->weight, weight));
  copy->layer->weight.detach().zero_();
  unmerge(*net);
  EXPECT_TRUE(same(net->layer->weight, weight));
}

TEST(Merge, MovedWhileMergedComesBackMoved) {
  One net = several({lora});
  const torch::Tensor weight = net->layer->weight.clone();
  merge(*net);
  net->to(at::kFloat);
  unmerge(*net);
  EXPECT_TRUE(same(net->layer->weight, weight.to(at::kFloat)));
}

TEST(Merge, SeveralAdaptersRoundA16BitWeightOnce) {
  One net = several({lora, circulant, lora});
  set_active(*net, {"a", "b", "c"});
  net->to(at::kFloat);
  net->eval();
  const auto cast_base = [&](at::ScalarType type) {
    net->layer->weight.set_data(net->layer->weight.to(type));
    net->layer->bias.set_data(net->layer->bias.to(type));
  };
  cast_base(at::kBFloat16);
  merge(*net);
  const torch::Tensor merged = net->layer->weight.clone();
  unmerge(*net);
  cast_base(at::kFloat);
  merge(*net);
  EXPECT_TRUE(same(merged, net->layer->weight.to(at::kBFloat16)));
}

TEST(Merge, TiedWeightsAreRefused) {
  Net net;
  net->eval();
  net->block(1).first->weight.set_data(net->block(0).first->weight);
  adapt(*net, LoraOptions(2), {"first"});
  randomize(*net);
  const torch::Tensor weight = net->block(0).first->weight.clone();
  EXPECT_TRUE(has(error_of([&] { merge(*net); }),
                  "`blocks.0.first` is tied: blocks.0.first.weight, blocks.1.first.weight "
                  "are one tensor"));
  EXPECT_TRUE(same(net->block(0).first->weight, weight));
  EXPECT_TRUE(has(error_of([&] { merge_and_unload(*net); }), "is tied"));
}

TEST(Merge, AllLayersOrNone) {
  Net net;
  net->eval();
  adapt(*net, LoraOptions(2), {"in", "first"});
  randomize(*net);
  const torch::Tensor x = noise({5, 12}, at::kFloat);
  torch::NoGradGuard no_grad;
  auto broken = own_tensors(*net->block(1).first).front();
  const float value = broken[0][0].item<float>();
  broken[0][0] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(has(error_of([&] { merge(*net); }), "the merged weight of `blocks.1.first` is not finite"));
  EXPECT_FALSE(net->in->merged());
  broken[0][0] = value;
  const torch::Tensor before = net(x);
  adapt(*net, BottleneckOptions(2), {"site"}, "site");
  set_active(*net, {"default", "site"});
  EXPECT_TRUE(
      has(error_of([&] { merge(*net); }), "adapter `site` at `blocks.0.site` cannot be merged: its nonlinearity"));
  EXPECT_FALSE(net->in->merged());
  set_active(*net, {"default"});
  merge_and_unload(*net);
  EXPECT_TRUE(close(net(x), before, 1e-5, 1e-6));
  EXPECT_TRUE(adapter_names(*net).empty());
  EXPECT_TRUE(has(error_of([&] { merge(*net); }), "expected an active, enabled adapter, got none"));
}

}  // namespace
}  // namespace veneer::test
