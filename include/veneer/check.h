// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <vector>

// User errors: "[owner] what was expected, got what". Becomes ValueError in Python, c10::ValueError in C++.
#define VENEER_CHECK(condition, owner, ...) TORCH_CHECK_VALUE(condition, "[", owner, "] ", __VA_ARGS__)

namespace veneer {

// "a, b, c"; "none" for an empty list.
std::string join(const std::vector<std::string>& items);
// "did you mean `second`?" for the closest of `known` within a third of the word's length, else "".
std::string suggestion(const std::string& word, const std::vector<std::string>& known);

}  // namespace veneer
