// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Which way each update of a fused path went, and why: for explain() and the debug log.
#pragma once

#include <string>
#include <vector>

namespace veneer {

// Whether anybody reads the lines; nothing is formatted otherwise.
bool routes_wanted();
void add_route(const std::string& line);

// The lines since the last call, of all threads. They are recorded from a call with `go_on` to one without.
std::vector<std::string> take_routes(bool go_on);

}  // namespace veneer
