// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The generic suite over structured matrices: one row of cases.json drives every test here. A matrix is tried as the
// update of an adapted layer, so the host is tried with it; its `dense` is the effective weight over a base of zeros.
#include <regex>

#include "support.h"
#include "veneer/registry.h"

namespace veneer::test {
namespace {

using nlohmann::json;

class Matrices : public testing::TestWithParam<Row> {
 protected:
  json options(const json& more = json::object()) const {
    json matrix = GetParam().options;
    matrix["name"] = GetParam().name;
    json all = more;
    all["matrix"] = matrix;
    return all;
  }

  // Calls `test(net, d_in, d_out)` with a freshly adapted layer of every size the family accepts.
  template <class Test>
  void each_size(const json& more, Test&& test) const {
    size_t tried = 0;
    for (const auto& size : cases().at("sizes")) {
      const int64_t d_in = size[0], d_out = size[1];
      SCOPED_TRACE(c10::str(d_in, "x", d_out));
      One net(false, d_in, d_out);
      try {
        adapt(*net, MethodOptions("additive", options(more)), {"part"});
      } catch (const c10::ValueError&) {
        EXPECT_TRUE(cases()["matrices"][GetParam().name].contains("refused"));
        continue;
      }
      ++tried;
      test(net, d_in, d_out);
    }
    EXPECT_GT(tried, 0U);
  }

  // s * M, [d_out, d_in], with gradients.
  static torch::Tensor dense(One& net) {
    const LayerAdapter& part = *net->layer->adapter("default");
    return part.bound->method->weight(torch::zeros_like(net->layer->weight), part.params());
  }
};

TEST_P(Matrices, ForwardEqualsDenseInValuesAndGradients) {
  each_size({}, [](One& net, int64_t d_in, int64_t d_out) {
    randomize(*net);
    auto inner = own_tensors(*net->layer);
    inner.insert(inner.begin(), torch::Tensor());
    // Few rows, and so many that the matrix is added to the weight.
    for (const int64_t pairs : {int64_t{3}, std::max<int64_t>(4, std::min(d_in, d_out))}) {
      SCOPED_TRACE(c10::str(2 * pairs, " rows"));
      inner[0] = noise({pairs, 2, d_in}).requires_grad_();
      const torch::Tensor upstream = noise({pairs, 2, d_out});
      const torch::Tensor ours = net(inner[0]);
      const torch::Tensor reference = at::linear(inner[0], net->layer->weight + dense(net), net->layer->bias);
      EXPECT_TRUE(close(ours, reference));
      const auto got = torch::autograd::grad({ours}, inner, {upstream});
      const auto expected = torch::autograd::grad({reference}, inner, {upstream});
      for (size_t i = 0; i < inner.size(); ++i) {
        EXPECT_TRUE(close(got[i], expected[i], 1e-9, 1e-10)) << "gradient " << i;
      }
    }
  });
}

TEST_P(Matrices, ShapesStridesAndEmptyBatches) {
  each_size({}, [](One& net, int64_t d_in, int64_t) {
    randomize(*net);
    const torch::NoGradGuard no_grad;
    const torch::Tensor weight = net->layer->weight + dense(net);
    for (const auto& x : {noise({d_in}), noise({0, d_in}), noise({2, 0, d_in}), noise({d_in, 3, 2}).permute({1, 2, 0}),
                          noise({3, 2 * d_in}).slice(1, 0, 2 * d_in, 2), noise({3, 1}).expand({3, d_in})}) {
      EXPECT_TRUE(close(net(x), at::linear(x, weight, net->layer->bias)));
    }
  });
}

TEST_P(Matrices, StartIsTheBaseBitForBit) {
  if (!starts_at_base("matrices", GetParam())) GTEST_SKIP() << "by definition";
  for (const bool decompose : {false, true}) {
    each_size({{"decompose", decompose}}, [](One& net, int64_t d_in, int64_t) {
      const torch::Tensor x = noise({5, d_in});
      EXPECT_TRUE(same(net(x), at::linear(x, net->layer->weight, net->layer->bias)));
    });
  }
}

TEST_P(Matrices, RandomStartIsNotTheBase) {
  each_size({{"start", "random"}}, [](One& net, int64_t d_in, int64_t) {
    const torch::Tensor x = noise({5, d_in});
    EXPECT_FALSE(at::equal(net(x), at::linear(x, net->layer->weight, net->layer->bias)));
  });
}

TEST_P(Matrices, MergeAndUnmergeAreExact) {
  for (const bool decompose : {false, true}) {
    each_size({{"decompose", decompose}}, [](One& net, int64_t d_in, int64_t) {
      randomize(*net);
      net->eval();
      const torch::NoGradGuard no_grad;
      const torch::Tensor x = noise({5, d_in});
      const torch::Tensor adapted = net(x), weight = net->layer->weight.clone();
      merge(*net);
      EXPECT_TRUE(close(net(x), adapted));
      EXPECT_FALSE(at::equal(net->layer->weight, weight));
      unmerge(*net);
      EXPECT_TRUE(same(net->layer->weight, weight));
      EXPECT_TRUE(same(net(x), adapted));
    });
  }
}

TEST_P(Matrices, SaveAndLoadAreExact) {
  each_size({{"scale", 0.5}}, [](One& net, int64_t d_in, int64_t d_out) {
    const TemporaryFolder folder;
    randomize(*net);
    save_adapter(*net, folder / "out");
    One other(false, d_in, d_out);
    {
      const torch::NoGradGuard no_grad;
      other->layer->weight.copy_(net->layer->weight);
      other->layer->bias.copy_(net->layer->bias);
    }
    load_adapter(*other, folder / "out");
    const torch::Tensor x = noise({5, d_in});
    EXPECT_TRUE(same(other(x), net(x)));
  });
}

TEST_P(Matrices, Bfloat16ErrorIsAtMostTwiceTorchsOwn) {
  each_size({}, [](One& net, int64_t d_in, int64_t d_out) {
    randomize(*net);
    net->to(at::kBFloat16);
    const torch::NoGradGuard no_grad;
    const torch::Tensor x = noise({64, d_in}, at::kBFloat16);
    const torch::Tensor ours = net(x) - 0;  // the update beside the base
    auto exact_net = std::dynamic_pointer_cast<OneImpl>(net->clone());
    exact_net->to(at::kDouble);
    One exact(exact_net);
    const torch::Tensor update = dense(exact);
    const torch::Tensor reference = at::linear(x.to(at::kDouble), exact->layer->weight + update, exact->layer->bias);
    const torch::Tensor theirs = at::linear(x, (exact->layer->weight + update).to(at::kBFloat16), net->layer->bias);
    const auto error = [&](const torch::Tensor& y) {
      return (y.to(at::kDouble) - reference).abs().max().item<double>();
    };
    // The base's output is rounded before the update is added, which may cancel it.
    const torch::Tensor base = at::linear(x.to(at::kDouble), exact->layer->weight, exact->layer->bias);
    const double largest = at::maximum(base.abs(), reference.abs()).max().item<double>(), eps = 0.0078125;
    EXPECT_LE(error(ours), 2 * error(theirs) + 2 * eps * largest) << d_out;
  });
}

TEST_P(Matrices, WorkInsideABottleneck) {
  json matrix = GetParam().options;
  matrix["name"] = GetParam().name;
  const std::string text = matrix.dump();
  One net(true, 12, 12);
  adapt(*net, BottleneckOptions().bottleneck_size(6).matrix(text), {"part"});
  const torch::Tensor x = noise({3, 12}).requires_grad_();
  EXPECT_EQ(at::equal(net(x), x), starts_at_base("matrices", GetParam()));
  randomize(*net);
  net(x).sum().backward();
  for (const auto& tensor : own_tensors(*net->site)) EXPECT_TRUE(tensor.grad().isfinite().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Table, Matrices, testing::ValuesIn(rows("matrices")), label_of);

TEST(MatrixTable, HasARowForEveryRegisteredMatrix) {
  std::vector<std::string> names;
  for (const auto& [name, row] : cases()["matrices"].items()) names.push_back(name);
  EXPECT_EQ(names, matrix_names());
}

TEST(MatrixTable, CountsAreThePapers) {
  for (const auto& [name, row] : cases()["matrices"].items()) {
    for (const auto& count : row.value("counts", json::array())) {
      json matrix = count[0];
      matrix["name"] = name;
      One net(false, count[1], count[2]);
      const Report report = adapt(*net, MethodOptions("additive", json{{"matrix", matrix}}), {"part"});
      EXPECT_EQ(report.adapter_parameters, count[3].get<int64_t>()) << name << count;
      EXPECT_EQ(report.trainable, report.adapter_parameters);
    }
  }
}

TEST(MatrixTable, RefusalsSayWhy) {
  for (const auto& [name, row] : cases()["matrices"].items()) {
    for (const auto& refused : row.value("refused", json::array())) {
      json matrix = refused[0];
      matrix["name"] = name;
      One net(false, refused[1], refused[2]);
      const auto error = error_of([&] { adapt(*net, MethodOptions("additive", json{{"matrix", matrix}}), {"part"}); });
      EXPECT_TRUE(std::regex_search(error, std::regex(refused[3].get<std::string>()))) << error;
      EXPECT_TRUE(net->layer->adapters().empty());
    }
  }
}

}  // namespace
}  // namespace veneer::test
