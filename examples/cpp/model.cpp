// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "model.h"

namespace {
constexpr int64_t rows = 8, columns = 8, size = 32, heads = 4, depth = 2, classes = 10;
}

BlockImpl::BlockImpl(int64_t size_, int64_t heads_) : size(size_), heads(heads_) { reset(); }

void BlockImpl::reset() {
  norm1 = register_module("norm1", torch::nn::LayerNorm(torch::nn::LayerNormOptions({size})));
  query = register_module("query", veneer::Linear(size, size));
  key = register_module("key", veneer::Linear(size, size));
  value = register_module("value", veneer::Linear(size, size));
  out = register_module("out", veneer::Linear(size, size));
  norm2 = register_module("norm2", torch::nn::LayerNorm(torch::nn::LayerNormOptions({size})));
  fc1 = register_module("fc1", veneer::Linear(size, 2 * size));
  fc2 = register_module("fc2", veneer::Linear(2 * size, size));
  site = register_module("site", veneer::HiddenSite(size));
}

torch::Tensor BlockImpl::forward(torch::Tensor x) {
  const auto split = [&](const torch::Tensor& t) { return t.unflatten(-1, {heads, size / heads}).transpose(1, 2); };
  const torch::Tensor h = norm1(x);
  const torch::Tensor mixed = at::scaled_dot_product_attention(split(query(h)), split(key(h)), split(value(h)));
  x = x + out(mixed.transpose(1, 2).flatten(2));
  return x + site(fc2(torch::gelu(fc1(norm2(x)))));
}

void DigitsNetImpl::reset() {
  embed = register_module("embed", veneer::Linear(columns, size));
  position = register_parameter("position", 0.02 * torch::randn({rows, size}));
  blocks = register_module("blocks", torch::nn::ModuleList());
  for (int64_t i = 0; i < depth; ++i) blocks->push_back(Block(size, heads));
  norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({size})));
  head = register_module("head", torch::nn::Linear(size, classes));
}

torch::Tensor DigitsNetImpl::forward(torch::Tensor images) {
  torch::Tensor x = embed(images.unflatten(-1, {rows, columns})) + position;
  for (const auto& block : *blocks) x = block->as<Block>()->forward(x);
  return head(norm(x).mean(1));
}
