// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// clone() of whole adapted models: own tensors, shared ones shared again, the same parameters trainable.
#include <atomic>
#include <thread>

#include "support.h"

namespace veneer::test {
namespace {

Net copy_of(const Net& net) { return Net(std::dynamic_pointer_cast<NetImpl>(net->clone())); }

std::vector<std::string> trainable_names(const Net& net) {
  trainable_parameters(*net);
  std::vector<std::string> names;
  for (const auto& item : net->named_parameters()) {
    if (item.value().requires_grad()) names.push_back(item.key());
  }
  return names;
}

TEST(Clone, SharedTensorsAreSharedAnew) {
  Net net;
  adapt(*net, VeraOptions(4), {"in", "first"});
  randomize(*net);
  const auto shared = [](Net one, int part) {
    const auto& layer = part < 0 ? one->in : one->block(static_cast<size_t>(part)).first;
    return layer->adapter("default")->tensors.at(2);
  };
  std::vector<Net> copies{copy_of(net), copy_of(net)};
  copies.push_back(copy_of(copies.front()));
  std::shared_ptr<torch::nn::Module> alone = net->block(0).first->clone();  // a layer by itself
  copies.push_back(copy_of(net));
  std::set<const void*> seen{shared(net, -1).unsafeGetTensorImpl()};
  for (const auto& copy : copies) {
    EXPECT_TRUE(seen.insert(shared(copy, -1).unsafeGetTensorImpl()).second);
    EXPECT_TRUE(shared(copy, 0).is_same(shared(copy, -1)));
    EXPECT_TRUE(shared(copy, 1).is_same(shared(copy, -1)));
    EXPECT_TRUE(same(shared(copy, -1), shared(net, -1)));
    EXPECT_EQ(copy->named_parameters().keys(), net->named_parameters().keys());
  }
  // One of them moves as a whole, the others stay.
  copies[0]->to(at::kDouble);
  EXPECT_EQ(shared(copies[0], 1).scalar_type(), at::kDouble);
  EXPECT_EQ(shared(net, 1).scalar_type(), at::kFloat);
  const torch::Tensor x = noise({3, 12}, at::kFloat);
  EXPECT_TRUE(same(copies[1](x), net(x)));
}

TEST(Clone, ThreadsDoNotMix) {
  Net net;
  adapt(*net, VeraOptions(4), {"in", "first"});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j) {
        Net copy = copy_of(net);
        const auto& a = copy->in->adapter("default")->tensors[2];
        if (!copy->block(1).first->adapter("default")->tensors[2].is_same(a)) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Clone, TrainsTheSameParameters) {
  Net net;
  adapt(*net, LoraOptions(2).modules_to_save({"head"}).bias("lora_only"), {"in"});
  Net copy = copy_of(net);
  // LibTorch's own clone() has unfrozen the norms; they are frozen again before anybody asks what trains.
  EXPECT_TRUE(copy->block(0).norm->weight.requires_grad());
  EXPECT_EQ(trainable_names(copy), trainable_names(net));
  EXPECT_FALSE(copy->block(0).norm->weight.requires_grad());
  EXPECT_TRUE(copy->head->weight.requires_grad());
  // What a user unfreezes by hand stays so.
  copy->block(0).norm->weight.set_requires_grad(true);
  EXPECT_EQ(trainable_names(copy).size(), trainable_names(net).size() + 1);
}

TEST(Clone, KeepsAdaptersAndTheirState) {
  Net net;
  adapt(*net, LoraOptions(2), {"in"}, "a");
  adapt(*net, SurmOptions(), {"in", "first"}, "b");
  set_active(*net, {"a", "b"});
  randomize(*net, "a");
  randomize(*net, "b");
  Net copy = copy_of(net);
  EXPECT_EQ(active_adapters(*copy), active_adapters(*net));
  const torch::Tensor x = noise({3, 12}, at::kFloat);
  EXPECT_TRUE(same(copy(x), net(x)));
  delete_adapter(*copy, "a");
  EXPECT_EQ(adapter_names(*net).size(), 2U);
  const TemporaryFolder folder;
  save_adapter(*copy, folder / "b", "b");
  disable(*net);
  EXPECT_TRUE(same(copy_of(net)(x), net(x)));
}

}  // namespace
}  // namespace veneer::test
