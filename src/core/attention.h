// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The projections of attention, by the names that models give them.
#pragma once

#include <cstdint>
#include <string>

namespace veneer {

// 0 to 3 for q, k, v and o. An error names the owner, the names that are known, and `instead`, what to do else.
int64_t attention_projection(const std::string& owner, const std::string& role, const std::string& instead);

}  // namespace veneer
