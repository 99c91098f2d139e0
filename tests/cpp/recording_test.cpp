// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/recording.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace veneer {
namespace {

using at::Tensor;

Tensor leaf(double value) { return torch::full({2}, value).requires_grad_(); }

TEST(Recording, OutputsThatAreInputsHaveTheirGradients) {
  const Tensor a = leaf(1), b = leaf(2), frozen = torch::zeros({2}), da = torch::full({2}, 3.0), db = da + 1;
  const auto found = gradients_of({b, frozen, a}, {a, frozen, b}, {db, {}, da});
  EXPECT_TRUE(found[0].is_same(da));
  EXPECT_FALSE(found[1].defined());
  EXPECT_TRUE(found[2].is_same(db));
}

TEST(Recording, OutputsWithoutGradientsGiveNone) {
  const Tensor a = leaf(1), b = leaf(2), one = torch::ones({2});
  const auto found = gradients_of({a, b}, {a, b}, {{}, one});
  EXPECT_FALSE(found[0].defined());
  EXPECT_TRUE(found[1].is_same(one));
  EXPECT_FALSE(gradients_of({a}, {a}, {at::Tensor()})[0].defined());
}

TEST(Recording, OneInputInSeveralPlacesHasTheSum) {
  const Tensor a = leaf(1), b = leaf(2), one = torch::ones({2});
  const auto found = gradients_of({a, a}, {b, a}, {one, 2 * one});
  EXPECT_FALSE(found[0].defined());
  EXPECT_TRUE(found[1].equal(3 * one));
}

TEST(Recording, InputsBesideWhatIsComputedOfThem) {
  const Tensor a = leaf(1), b = leaf(2), one = torch::ones({2});
  Tensor product;
  {
    const Recording recording;
    product = 5 * a * b;
  }
  const auto found = gradients_of({a, product}, {a, b}, {one, one});
  EXPECT_TRUE(found[0].equal(11 * one));
  EXPECT_TRUE(found[1].equal(5 * one));
}

}  // namespace
}  // namespace veneer
