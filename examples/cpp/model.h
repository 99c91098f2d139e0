// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A small transformer that reads an 8 x 8 image row by row: eight tokens of eight pixels. Its twin in PyTorch, with the
// same names, is examples/python/digits_twin.py: weights and adapters of either load into the other.
#pragma once

#include <torch/torch.h>
#include <veneer/veneer.h>

// What can be adapted is declared veneer::Linear instead of torch::nn::Linear, and a veneer::HiddenSite marks where a
// bottleneck adapter may act. Until then both cost nothing.
struct BlockImpl : torch::nn::Cloneable<BlockImpl> {
  BlockImpl(int64_t size, int64_t heads);
  void reset() override;
  torch::Tensor forward(torch::Tensor x);  // [N, T, size] -> [N, T, size]

  int64_t size, heads;
  torch::nn::LayerNorm norm1{nullptr}, norm2{nullptr};
  veneer::Linear query{nullptr}, key{nullptr}, value{nullptr}, out{nullptr}, fc1{nullptr}, fc2{nullptr};
  veneer::HiddenSite site{nullptr};
};
TORCH_MODULE(Block);

// Cloneable, with everything registered in reset(), so that clone() works: LibTorch's rule, not Veneer's.
struct DigitsNetImpl : torch::nn::Cloneable<DigitsNetImpl> {
  DigitsNetImpl() { reset(); }
  void reset() override;
  torch::Tensor forward(torch::Tensor images);  // [N, 64] -> [N, 10]

  veneer::Linear embed{nullptr};
  torch::Tensor position;  // [8, size]
  torch::nn::ModuleList blocks{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(DigitsNet);
