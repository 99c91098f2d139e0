// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>

namespace veneer {
namespace {

spdlog::logger& logger() {
  // Not in spdlog's registry, which belongs to the program that uses us.
  static const auto made = [] {
    auto one = std::make_shared<spdlog::logger>("veneer", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    const char* level = std::getenv("VENEER_LOG");
    one->set_level(level == nullptr ? spdlog::level::off : spdlog::level::from_str(level));
    return one;
  }();
  return *made;
}

}  // namespace

bool log_debug_enabled() { return logger().should_log(spdlog::level::debug); }

void log_debug_line(const std::string& text) { logger().debug("{}", text); }

}  // namespace veneer
