// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Fused paths on a CPU use all threads, and what they compute does not depend on how many there are.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <set>
#include <thread>

#include "core/circulant_rows.h"
#include "core/convolution_chain.h"
#include "core/dropped.h"
#include "core/limits.h"
#include "core/row_norms.h"
#include "core/thin.h"
#include "support.h"

namespace veneer {
namespace {

class Threads : public testing::Test {
 protected:
  void TearDown() override { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

TEST_F(Threads, GoThroughRowsTogether) {
  at::set_num_threads(3);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  by_rows(torch::zeros({4096, 768}), false, [&](int64_t, int64_t, int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 3U);
}

TEST_F(Threads, DoNotChangeResults) {
  const auto results = [](int threads) {
    at::set_num_threads(threads);
    torch::manual_seed(3);
    const at::Tensor x = torch::randn({777, 96}), dy = torch::randn({777, 96}), a = torch::randn({5, 96});
    const Dropped dropped{x, torch::full({1}, 11, at::kLong), 0.25};
    const at::Tensor h = cpu::reduced(dropped, a, 0.5), columns = torch::randn({1, 1, 96});
    const auto [again, sums] = cpu::reduced_and_summed({dy}, a, h, 1.0, 2.0, true);
    const at::Tensor y = at::empty_like(x);
    cpu::expand_into(y, h, a, 1.0, dropped, {}, {});
    const cpu::CirculantShape shape{1, 1, 96, 96, 96};
    const auto [dx, slopes] = cpu::circulant_gradients(x, dy, columns, shape, true);
    std::vector<at::Tensor> all{
        h, again, sums, y, dx, slopes, cpu::circulant_product(x, columns, shape), cpu::summed(dropped, h, 1.0, true)};
    const ConvolutionChain chain(Convolution(96, true), Convolution(96), 96);
    all.push_back(chain.product(x, a, a, 96));
    all.push_back(cpu::row_norms(x, a, torch::randn({777, 5}), 0.5));
    const at::Tensor trained = a.detach().requires_grad_();
    for (const at::Tensor& gradient : chain.pullback(x, dy, trained, a, true)) all.push_back(gradient);
    return all;
  };
  const auto one = results(1), three = results(3);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], three[i])) << i;
}

// Every kernel against the definition in float64, on sizes that fill no vector, tile or strip.
class Rows : public testing::TestWithParam<at::ScalarType> {
 protected:
  static at::Tensor random(at::IntArrayRef sizes) { return torch::randn(sizes).to(GetParam()); }
  // Relative to the largest number, or, where few are small by chance, to what sums of so many products are like;
  // rounded once.
  static void expect_close(const at::Tensor& got, const at::Tensor& expected, int64_t terms) {
    ASSERT_EQ(got.sizes(), expected.sizes());
    const double unit = got.scalar_type() == at::kBFloat16 ? 4e-3 : got.scalar_type() == at::kHalf ? 5e-4 : 6e-8;
    const double like = std::sqrt(static_cast<double>(terms));
    const double most = std::max(expected.abs().max().item<double>(), like);
    const double rounding = unit + 6e-8 * 4 * like;
    EXPECT_LT((got.to(expected.scalar_type()) - expected).abs().max().item<double>(), 2 * rounding * most + 1e-12);
  }
};

TEST_P(Rows, ThinProducts) {
  for (const auto& [n, d, r] :
       {std::tuple{1, 1, 1}, {7, 5, 3}, {33, 127, 8}, {300, 40, 17}, {65, 768, 64}, {75, 766, 9}}) {
    SCOPED_TRACE(testing::Message() << n << " x " << d << ", rank " << r);
    const at::Tensor x = random({n, d}), a = random({d, r}).t(), h = random({n, r}), bias = random({d});
    const at::Tensor base = random({n, d}), wide = x.to(at::kDouble), wide_a = a.to(at::kDouble);
    const at::Tensor wide_h = h.to(at::kDouble), seed = torch::full({1}, 5, at::kLong);
    ASSERT_TRUE(cpu::takes_thin(x, r));
    expect_close(cpu::reduced({x}, a, 0.5), 0.5 * wide.mm(wide_a.t()), d);
    expect_close(cpu::summed({x}, h, 0.5, true), 0.5 * wide_h.t().mm(wide), n);
    EXPECT_EQ(cpu::summed({x}, h, 0.5, false).scalar_type(), at::kFloat);
    const auto [reduced, summed] = cpu::reduced_and_summed({x}, a, h, 2.0, 3.0, true);
    expect_close(reduced, 2.0 * wide.mm(wide_a.t()), d);
    expect_close(summed, 3.0 * wide.t().mm(wide_h), n);

    const Dropped dropped{x, seed, 0.25};
    const at::Tensor wide_dropped = dropped.all().to(at::kDouble);
    expect_close(cpu::reduced(dropped, a, 1.0), wide_dropped.mm(wide_a.t()), d);
    expect_close(cpu::summed(dropped, h, 1.0, true), wide_h.t().mm(wide_dropped), n);

    const at::Tensor y = at::empty_like(x), product = 2.0 * wide_h.mm(wide_a);
    for (const bool has_base : {false, true}) {
      for (const bool has_bias : {false, true}) {
        cpu::expand_into(y, h, a, 2.0, {}, has_bias ? bias : at::Tensor(), has_base ? base : at::Tensor());
        expect_close(y, product + (has_bias ? 1 : 0) * bias.to(at::kDouble) + (has_base ? 1 : 0) * base.to(at::kDouble),
                     r);
      }
    }
    cpu::expand_into(y, h, a, 2.0, dropped, {}, {});
    expect_close(y, Dropped{product, seed, 0.25}.all(), r);
  }
}

TEST_P(Rows, Norms) {
  for (const auto& [n, d, r] : {std::tuple{1, 1, 1}, {7, 5, 3}, {33, 127, 8}, {300, 40, 17}, {65, 768, 32}}) {
    SCOPED_TRACE(testing::Message() << n << " x " << d << ", rank " << r);
    const at::Tensor w = random({n, d}).abs();                    // of one sign, so that nothing cancels
    for (const at::ScalarType type : {at::kFloat, GetParam()}) {  // factors may be wider than the weight
      const at::Tensor a = torch::rand({d, r}).to(type).t(), b = torch::rand({r, n}).to(type).t();
      ASSERT_TRUE(cpu::takes_row_norms(w, a, b));
      const at::Tensor sum = w.to(at::kDouble) + 0.5 * b.to(at::kDouble).mm(a.to(at::kDouble));
      const at::Tensor norms = cpu::row_norms(w, a, b, 0.5);
      EXPECT_EQ(norms.scalar_type(), at::kFloat);
      expect_close(norms, at::linalg_vector_norm(sum, 2, at::IntArrayRef{1}), d);
    }
  }
  const at::Tensor w = random({3, 4}), a = random({2, 4}), b = random({3, 2});
  EXPECT_TRUE(at::equal(cpu::row_norms(torch::zeros({3, 4}), a, torch::zeros({3, 2}), 1.0), torch::zeros({3})));
  EXPECT_FALSE(cpu::takes_row_norms(w.t(), a, b));
  EXPECT_FALSE(cpu::takes_row_norms(w, a.to(at::kDouble), b));
  EXPECT_FALSE(cpu::takes_row_norms(random({0, 4}), a, random({0, 2})));
  const int64_t rank = limits().tiled_rank + 1;
  EXPECT_FALSE(cpu::takes_row_norms(w, random({rank, 4}), random({3, rank})));
}

// Column j of a convolution's matrix is its signal moved on by j; what leaves at the end comes back, with the other
// sign where it is negacyclic.
at::Tensor convolution_matrix(const at::Tensor& signal, bool negacyclic) {
  const int64_t n = signal.size(0);
  std::vector<at::Tensor> columns;
  for (int64_t j = 0; j < n; ++j) {
    const at::Tensor column = signal.roll(j).clone();
    if (negacyclic) column.narrow(0, 0, j).neg_();
    columns.push_back(column);
  }
  return at::stack(columns, 1);
}

TEST_P(Rows, Circulants) {
  using Shape = cpu::CirculantShape;
  for (const Shape& s :
       {Shape{1, 1, 1, 1, 1}, Shape{1, 1, 768, 768, 768}, Shape{2, 3, 35, 105, 70}, Shape{3, 1, 12, 12, 36},
        Shape{2, 2, 16, 30, 25}, Shape{1, 2, 9, 10, 9}, Shape{1, 1, 1, 1, 1, true}, Shape{1, 1, 48, 48, 48, true},
        Shape{1, 1, 105, 71, 105, true}, Shape{1, 1, 768, 768, 300, true}, Shape{2, 3, 10, 27, 20, true}}) {
    for (const int64_t n : {1, 8, 16, 37, 200}) {
      SCOPED_TRACE(testing::Message() << s.m << " x " << s.q << " of " << s.g << (s.negacyclic ? ", negacyclic" : "")
                                      << ", rows " << n);
      const at::Tensor x = random({n, s.d_in}), dy = random({n, s.d_out});
      const at::Tensor columns = torch::randn({s.m, s.q, s.g}, at::kDouble).requires_grad_();
      ASSERT_TRUE(cpu::takes_circulant(x, s));
      std::vector<at::Tensor> block_rows;
      for (int64_t i = 0; i < s.m; ++i) {
        std::vector<at::Tensor> blocks;
        for (int64_t j = 0; j < s.q; ++j) blocks.push_back(convolution_matrix(columns[i][j], s.negacyclic));
        block_rows.push_back(at::cat(blocks, 1));
      }
      const at::Tensor dense = at::cat(block_rows, 0).narrow(0, 0, s.d_out).narrow(1, 0, s.d_in);
      const at::Tensor wide_x = x.to(at::kDouble), wide_dy = dy.to(at::kDouble);
      const at::Tensor plain = columns.detach();
      expect_close(cpu::circulant_product(x, plain, s), wide_x.mm(dense.detach().t()), s.d_in);

      const auto [dx, slopes] = cpu::circulant_gradients(x, dy, plain, s, true);
      expect_close(dx, wide_dy.mm(dense.detach()), s.d_out);
      expect_close(slopes, torch::autograd::grad({wide_x.mm(dense.t())}, {columns}, {wide_dy})[0], n * s.g);
      EXPECT_FALSE(cpu::circulant_gradients(x, dy, plain, s, false).first.defined());
    }
  }
}

TEST_P(Rows, ChainsOfConvolutions) {
  struct Sizes {
    int64_t length, n, ranks, d_in, d_out;
    bool negacyclic;
  };
  for (const Sizes& s :
       {Sizes{1, 1, 1, 1, 1, true}, Sizes{96, 96, 1, 96, 96, true}, Sizes{63, 63, 3, 63, 40, true},
        Sizes{400, 200, 1, 200, 200, false}, Sizes{150, 64, 2, 30, 64, false}, Sizes{90, 64, 2, 64, 33, true}}) {
    for (const int64_t n : {1, 16, 37, 200}) {
      SCOPED_TRACE(testing::Message() << s.length << ", cut to " << s.n << ", rows " << n);
      const Convolution one(s.length, s.negacyclic), two(s.length);
      const ConvolutionChain chain(one, two, s.n);
      const at::Tensor x = random({n, s.d_in}), dy = random({n, s.d_out});
      const at::Tensor c1 = torch::randn({s.ranks, s.length}), c2 = torch::randn({s.ranks, s.length});
      at::Tensor dense = at::zeros({s.d_out, s.d_in}, at::kDouble);
      const auto inputs = std::vector<at::Tensor>{
          x.to(at::kDouble).requires_grad_(), c1.to(at::kDouble).requires_grad_(), c2.to(at::kDouble).requires_grad_()};
      for (int64_t r = 0; r < s.ranks; ++r) {
        const auto corner = [&](const at::Tensor& c, bool negacyclic) {
          return convolution_matrix(c, negacyclic).narrow(0, 0, s.n).narrow(1, 0, s.n);
        };
        const at::Tensor product = corner(inputs[2][r], false).mm(corner(inputs[1][r], s.negacyclic));
        dense = dense + product.narrow(0, 0, s.d_out).narrow(1, 0, s.d_in);
      }
      const at::Tensor expected = inputs[0].mm(dense.t());
      const auto gradients = torch::autograd::grad({expected}, inputs, {dy.to(at::kDouble)});

      const c10::NoGradGuard no_grad;
      ASSERT_TRUE(chain.tiled(x));
      expect_close(chain.product(x, c1, c2, s.d_out), expected.detach(), 2 * s.length);
      const at::Tensor trained = c1.detach().requires_grad_();
      const auto found = chain.pullback(x, dy, trained, c2, true);
      expect_close(found[0], gradients[0], 2 * s.length);
      expect_close(found[1], gradients[1], n * s.length);
      expect_close(found[2], gradients[2], n * s.length);
      EXPECT_FALSE(chain.pullback(x, dy, trained, c2, false)[0].defined());
      const auto frozen = chain.pullback(x, dy, c1, c2, true);
      EXPECT_TRUE(at::equal(frozen[0], found[0]));
      EXPECT_FALSE(frozen[1].defined() || frozen[2].defined());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Rows, testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace veneer
