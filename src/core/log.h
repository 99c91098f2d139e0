// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The library's log: off unless the environment says VENEER_LOG=debug (or trace, info, warn, error), on stderr.
// spdlog stays inside log.cpp: it and torch bring different versions of fmt.
#pragma once

#include <sstream>
#include <string>

namespace veneer {

bool log_debug_enabled();
void log_debug_line(const std::string& text);

// log_debug("adapter ", name, ": ", count, " layers"); nothing is formatted while debug is off.
template <class... Parts>
void log_debug(const Parts&... parts) {
  if (!log_debug_enabled()) return;
  std::ostringstream text;
  (text << ... << parts);
  log_debug_line(text.str());
}

}  // namespace veneer
