// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The generic suite over methods: one row of cases.json drives every test here, each on an adapted layer or site.
#include <regex>

#include "support.h"
#include "veneer/registry.h"

namespace veneer::test {
namespace {

using nlohmann::json;

bool is_hidden(const std::string& method) { return cases()["methods"][method]["site"] == "hidden"; }

class Methods : public testing::TestWithParam<Row> {
 protected:
  const Row& row = GetParam();
  bool hidden = is_hidden(row.name);

  One make(bool random = true, bool bias = true, const json& more = json::object()) const {
    One net(hidden, 12, hidden ? 12 : 8, bias);
    json options = row.options;
    options.update(more);
    adapt(*net, MethodOptions(row.name, options), {"part"});
    net->to(torch::kDouble);  // a hidden site has no weight whose type its adapters could take
    if (random) randomize(*net);
    return net;
  }
  static torch::Tensor base(One& net, const torch::Tensor& x) {
    return net->hidden ? x : at::linear(x, net->layer->base_weight(), net->layer->base_bias());
  }
};

TEST_P(Methods, ForwardEqualsTheEffectiveWeightInValuesAndGradients) {
  if (hidden) GTEST_SKIP() << "no weight at a hidden site";
  for (const bool bias : {true, false}) {
    One net = make(true, bias);
    const LayerAdapter& part = *net->layer->adapter("default");
    const Method& method = *part.bound->method;
    ASSERT_TRUE(method.mergeable());
    const torch::Tensor x = noise({5, 12}).requires_grad_();
    const torch::Tensor ours = net(x);
    const torch::Tensor reference = at::linear(x, method.weight(net->layer->weight, part.params()),
                                               bias ? method.bias(net->layer->bias, part.params()) : torch::Tensor());
    EXPECT_TRUE(close(ours, reference));
    auto inner = own_tensors(*net->layer);
    inner.insert(inner.begin(), x);
    const torch::Tensor upstream = torch::randn_like(ours);
    const auto got = torch::autograd::grad({ours}, inner, {upstream});
    const auto expected = torch::autograd::grad({reference}, inner, {upstream});
    for (size_t i = 0; i < inner.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 1e-9, 1e-10)) << "gradient " << i;
  }
}

// Central differences, in float64. Not where a method stops a gradient by definition (DoRA at its norm).
TEST_P(Methods, GradientsEqualDifferences) {
  if (row.options.value("decompose", false)) GTEST_SKIP() << "the norm's gradient is stopped by definition";
  One net = make();
  torch::Tensor x = noise({3, 12}).requires_grad_();
  const torch::Tensor upstream = noise({3, hidden ? 12 : 8});
  auto inner = own_tensors(net->adapted());
  inner.insert(inner.begin(), x);
  const auto gradients = torch::autograd::grad({(net(x) * upstream).sum()}, inner);
  const torch::NoGradGuard no_grad;
  constexpr double step = 1e-6;
  for (size_t i = 0; i < inner.size(); ++i) {
    torch::Tensor flat = inner[i].view(-1);
    torch::Tensor expected = torch::empty_like(flat);
    for (int64_t j = 0; j < flat.numel(); ++j) {
      const double value = flat[j].item<double>();
      flat[j] = value + step;
      const double above = (net(x) * upstream).sum().item<double>();
      flat[j] = value - step;
      const double below = (net(x) * upstream).sum().item<double>();
      flat[j] = value;
      expected[j] = (above - below) / (2 * step);
    }
    EXPECT_TRUE(close(gradients[i].flatten(), expected, 1e-6, 1e-7)) << "gradient " << i;
  }
}

TEST_P(Methods, StartIsTheBaseBitForBit) {
  if (!starts_at_base("methods", row)) GTEST_SKIP() << "by definition";
  One net = make(/*random=*/false);
  const torch::Tensor x = noise({5, 12});
  EXPECT_TRUE(same(net(x), base(net, x)));
  net->to(at::kFloat);
  EXPECT_TRUE(close(net(x.to(at::kFloat)), base(net, x.to(at::kFloat)), 1e-5, 1e-6));
}

TEST_P(Methods, RandomIsNotTheBaseAndDisabledIs) {
  One net = make();
  const torch::Tensor x = noise({5, 12});
  const torch::Tensor adapted = net(x);
  EXPECT_FALSE(at::equal(adapted, base(net, x)));
  disable(*net);
  EXPECT_TRUE(same(net(x), base(net, x)));
  enable(*net);
  EXPECT_TRUE(same(net(x), adapted));
  delete_adapter(*net, "default");
  EXPECT_TRUE(same(net(x), base(net, x)));
  EXPECT_EQ(net->parameters().size(), hidden ? 0U : 2U);
}

TEST_P(Methods, MergeIsExactOrRefused) {
  One net = make();
  net->eval();
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = noise({5, 12});
  const torch::Tensor adapted = net(x);
  if (hidden) {
    EXPECT_TRUE(has(error_of([&] { merge(*net); }), "adapter `default` at `part` cannot be merged: "));
    EXPECT_TRUE(same(net(x), adapted));
    return;
  }
  const torch::Tensor weight = net->layer->weight.clone(), bias = net->layer->bias.clone();
  merge(*net);
  EXPECT_TRUE(close(net(x), adapted));
  EXPECT_TRUE(same(net->layer->base_weight(), weight));
  unmerge(*net);
  EXPECT_TRUE(same(net->layer->weight, weight));
  EXPECT_TRUE(same(net->layer->bias, bias));
  EXPECT_TRUE(same(net(x), adapted));
}

TEST_P(Methods, SaveAndLoadAreExact) {
  One net = make();
  net->to(torch::kFloat);  // what adapters are loaded as where no weight says otherwise
  const TemporaryFolder folder;
  save_adapter(*net, folder / "out");
  auto copy = std::dynamic_pointer_cast<OneImpl>(net->clone());
  delete_adapter(*copy, "default");
  load_adapter(*copy, folder / "out", "loaded");
  const torch::Tensor x = noise({5, 12}, torch::kFloat);
  EXPECT_TRUE(same(copy->forward(x), net(x)));
  EXPECT_TRUE(trainable_parameters(*copy).empty());
  load_adapter(*(copy = std::dynamic_pointer_cast<OneImpl>(net->clone())), folder / "out", "second",
               /*trainable=*/true);
  EXPECT_EQ(adapter_names(*copy), (std::vector<std::string>{"default", "second"}));
}

TEST_P(Methods, CloneIsEqualAndIndependent) {
  One net = make();
  auto copy = std::dynamic_pointer_cast<OneImpl>(net->clone());
  const torch::Tensor x = noise({5, 12});
  const torch::Tensor before = net(x);
  EXPECT_TRUE(same(copy->forward(x), before));
  EXPECT_EQ(copy->named_parameters().keys(), net->named_parameters().keys());
  EXPECT_EQ(trainable_parameters(*copy).size(), trainable_parameters(*net).size());
  randomize(*copy);
  EXPECT_FALSE(at::equal(copy->forward(x), before));
  EXPECT_TRUE(same(net(x), before));
}

TEST_P(Methods, Bfloat16Base) {
  One net = make();
  net->to(at::kBFloat16);
  const torch::NoGradGuard no_grad;
  const torch::Tensor x = noise({64, 12}, at::kBFloat16);
  const torch::Tensor ours = net(x);
  EXPECT_EQ(ours.scalar_type(), at::kBFloat16);
  One exact(std::dynamic_pointer_cast<OneImpl>(net->clone()));
  exact->to(at::kDouble);
  const torch::Tensor reference = exact(x.to(at::kDouble));
  const double scale =
      std::max(reference.abs().max().item<double>(), base(exact, x.to(at::kDouble)).abs().max().item<double>());
  EXPECT_LE((ours.to(at::kDouble) - reference).abs().max().item<double>(), 2 * 2 * 0.0078125 * scale);
}

TEST_P(Methods, AdaptersOfA16BitBaseAreFloat32) {
  One net(hidden, 12, hidden ? 12 : 8);
  net->to(at::kBFloat16);
  struct Holder : torch::nn::Module {};
  auto model = std::make_shared<Holder>();
  model->register_module("one", net.ptr());
  model->register_parameter("other", torch::ones({2}, at::kBFloat16));
  adapt(*model, MethodOptions(row.name, row.options), {"part"});
  for (const auto& tensor : own_tensors(net->adapted())) EXPECT_EQ(tensor.scalar_type(), at::kFloat);
  EXPECT_EQ(net(noise({3, 12}, at::kBFloat16)).scalar_type(), at::kBFloat16);
}

TEST_P(Methods, EmptyBatchesAndShapes) {
  One net = make();
  for (const auto& x : {noise({0, 12}), noise({2, 0, 12}), noise({12}), noise({2, 3, 12})}) {
    EXPECT_EQ(net(x).sizes(), base(net, x).sizes());
  }
}

TEST_P(Methods, DropoutRepeatsBySeedAndEndsInEval) {
  const auto& options = method_entry(row.name).options;
  if (std::none_of(options.begin(), options.end(), [](const Option& option) { return option.name == "dropout"; })) {
    GTEST_SKIP() << "has no dropout";
  }
  One net = make(true, true, {{"dropout", 0.5}});
  const torch::Tensor x = noise({20, 12});
  torch::manual_seed(3);
  const torch::Tensor first = net(x), second = net(x);
  EXPECT_FALSE(at::equal(first, second));
  torch::manual_seed(3);
  EXPECT_TRUE(same(net(x), first));
  net->eval();
  EXPECT_TRUE(same(net(x), net(x)));
}

INSTANTIATE_TEST_SUITE_P(Table, Methods, testing::ValuesIn(rows("methods")), label_of);

TEST(MethodTable, HasARowForEveryRegisteredMethod) {
  std::vector<std::string> names;
  for (const auto& [name, row] : cases()["methods"].items()) names.push_back(name);
  EXPECT_EQ(names, method_names());
}

TEST(MethodTable, CountsAreThePapers) {
  for (const auto& [name, row] : cases()["methods"].items()) {
    for (const auto& count : row.value("counts", json::array())) {
      One net(is_hidden(name), count[1], count[2]);
      const Report report = adapt(*net, MethodOptions(name, count[0]), {"part"});
      EXPECT_EQ(report.adapter_parameters, count[3].get<int64_t>()) << name << count;
    }
  }
}

TEST(MethodTable, RefusalsSayWhy) {
  for (const auto& [name, row] : cases()["methods"].items()) {
    for (const auto& refused : row.value("refused", json::array())) {
      One net(is_hidden(name), refused[1], refused[2]);
      const auto error = error_of([&] { adapt(*net, MethodOptions(name, refused[0]), {"part"}); });
      EXPECT_TRUE(std::regex_search(error, std::regex(refused[3].get<std::string>()))) << error;
      EXPECT_TRUE(net->adapted().adapters().empty());
    }
  }
}

}  // namespace
}  // namespace veneer::test
