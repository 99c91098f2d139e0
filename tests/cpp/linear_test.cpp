// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// veneer::Linear and veneer::HiddenSite as modules, before anything is adapted and as LibTorch uses them.
#include <ATen/autocast_mode.h>

#include "support.h"

namespace veneer::test {
namespace {

TEST(Linear, IsTorchsLinearUntilAdapted) {
  for (const bool bias : {true, false}) {
    const auto options = torch::nn::LinearOptions(5, 3).bias(bias);
    torch::manual_seed(7);
    torch::nn::Linear theirs(options);
    torch::manual_seed(7);
    Linear ours(options);
    EXPECT_TRUE(same(ours->weight, theirs->weight));
    const torch::Tensor x = noise({2, 4, 5}, at::kFloat);
    EXPECT_TRUE(same(ours(x), theirs(x)));
    const auto a = ours->named_parameters(), b = theirs->named_parameters();
    EXPECT_EQ(a.keys(), b.keys());
    EXPECT_EQ(ours->bias.defined(), bias);
    EXPECT_TRUE(ours->weight.requires_grad());
  }
  EXPECT_EQ(Linear(5, 3)->options.in_features(), 5);
}

TEST(Linear, WorksInSequentialAndAnyModule) {
  torch::nn::Sequential net(Linear(4, 6), torch::nn::ReLU(), HiddenSite(6), Linear(6, 2));
  EXPECT_EQ(net->forward(noise({3, 4}, at::kFloat)).sizes(), (at::IntArrayRef{3, 2}));
  adapt(*net, LoraOptions(2), {"0", "3"});
  EXPECT_EQ(net->forward(noise({3, 4}, at::kFloat)).sizes(), (at::IntArrayRef{3, 2}));
  torch::nn::AnyModule any(Linear(4, 6));
  EXPECT_EQ(any.forward(noise({3, 4}, at::kFloat)).sizes(), (at::IntArrayRef{3, 6}));
}

TEST(Linear, PrintsItsAdapters) {
  Net net;
  adapt(*net, LoraOptions(2), {"in"});
  std::ostringstream text;
  text << *net;
  EXPECT_TRUE(
      has(text.str(), "(in): veneer::Linear(in_features=12, out_features=8, bias=true, adapters=[default: additive])"));
  EXPECT_TRUE(has(text.str(), "(site): veneer::HiddenSite(d=8, wiring=output)"));
}

TEST(HiddenSite, IsTheIdentityUntilAdapted) {
  HiddenSite site(6);
  const torch::Tensor z = noise({2, 6}), y = noise({2, 6});
  EXPECT_TRUE(site(z).is_same(z));
  EXPECT_TRUE(site(z, y).is_same(y));
  EXPECT_TRUE(site->parameters().empty());
  EXPECT_TRUE(has(error_of([] { HiddenSite bad(HiddenSiteOptions(6).wiring("outptu")); }),
                  "must be one of: output, norm, input"));
  EXPECT_TRUE(has(error_of([] { HiddenSite bad(0); }), "must be positive"));
}

TEST(Linear, MovesBetweenTypesWithItsAdapters) {
  Net net;
  adapt(*net, VeraOptions(4), {"in", "first"});
  randomize(*net);
  const torch::Tensor x = noise({5, 12}, at::kFloat);
  const torch::Tensor before = net(x);
  net->to(torch::kDouble);
  EXPECT_TRUE(close(net(x.to(torch::kDouble)), before, 1e-5, 1e-5));
  // Shared tensors have moved once, for all layers.
  for (const auto& parameter : net->named_parameters())
    EXPECT_EQ(parameter.value().scalar_type(), at::kDouble) << parameter.key();
  for (const auto& tensor : net->block(0).first->adapter("default")->tensors)
    EXPECT_EQ(tensor.scalar_type(), at::kDouble);
}

TEST(Linear, TorchSaveAndLoadCarryAdapters) {
  Block net;  // no module of it is called `in`, a word that torch's archives cannot hold
  adapt(*net, VeraOptions(4), {"first", "second"});
  randomize(*net);
  std::stringstream stream;
  torch::save(net, stream);
  Block other;
  adapt(*other, VeraOptions(4), {"first", "second"});
  torch::load(other, stream);
  const torch::Tensor x = noise({5, 8}, at::kFloat);
  EXPECT_TRUE(same(other(x), net(x)));
}

TEST(Linear, AutocastAndNoGradWork) {
  Net net;
  adapt(*net, LoraOptions(2), {"in"});
  randomize(*net);
  const torch::Tensor x = noise({5, 12}, at::kFloat);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const torch::Tensor low = net->in(x);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(close(low.to(at::kFloat), net->in(x), 5e-2, 5e-2));
  const torch::NoGradGuard no_grad;
  EXPECT_FALSE(net(x).requires_grad());
}

}  // namespace
}  // namespace veneer::test
