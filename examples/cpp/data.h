// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/torch.h>

#include <map>
#include <string>

struct Split {
  torch::Tensor images;  // [N, 64], 0 to 1
  torch::Tensor labels;  // [N], 0 to 9
  int64_t size() const { return labels.size(0); }
};
// "base_train", "base_test": digits 0-4; "new_train", "new_test": digits 5-9.
using Data = std::map<std::string, Split>;

// scikit-learn's handwritten digits as `make quickstart` writes them: columns p0..p63 (0 to 16), label, split.
Data read_csv(const std::string& path, torch::Device device);
// A few noisy bars that stand for digits, so that the program can be tried without data.
Data synthetic(torch::Device device);
