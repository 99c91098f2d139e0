// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/attention.h"

#include <algorithm>
#include <vector>

#include "veneer/check.h"

namespace veneer {
namespace {

const std::vector<std::vector<std::string>> names{{"q", "q_proj", "query", "q_lin", "Wq"},
                                                  {"k", "k_proj", "key", "k_lin", "Wk"},
                                                  {"v", "v_proj", "value", "v_lin", "Wv"},
                                                  {"o", "o_proj", "out_proj", "dense", "out_lin", "Wo"}};

}  // namespace

int64_t attention_projection(const std::string& owner, const std::string& role, const std::string& instead) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (std::find(names[i].begin(), names[i].end(), role) != names[i].end()) return static_cast<int64_t>(i);
  }
  VENEER_CHECK(false, owner, "expected an attention projection, called one of ", join(names[0]), ", ", join(names[1]),
               ", ", join(names[2]), ", ", join(names[3]), "; got `", role, "`; ", instead);
}

}  // namespace veneer
