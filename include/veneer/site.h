// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace veneer {

// What a method attaches to. `linear`: a weight [d_out, d_in] and its optional bias. `hidden`: a hidden state [*, d]
// (d_in == d_out, no weight).
enum class SiteKind { linear, hidden };

// One place of a model a method is attached to. A method is bound to a site before use, so every size is known there.
struct Site {
  SiteKind kind = SiteKind::linear;
  int64_t d_in = 0;
  int64_t d_out = 0;
  bool has_weight = true;  // false where the base's dense weight cannot be reached
  bool has_bias = false;
  std::string path;    // dotted module path, for messages
  int64_t layer = -1;  // index of the transformer block, -1 where the path names none
  std::string role;    // last component of the path: "query", "fc1", ...
};

}  // namespace veneer
