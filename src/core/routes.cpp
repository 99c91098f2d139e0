// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/routes.h"

#include <atomic>
#include <mutex>
#include <utility>

#include "core/log.h"

namespace veneer {
namespace {

struct Recorder {
  std::atomic<bool> on = false;
  std::mutex mutex;
  std::vector<std::string> lines;
};

Recorder& recorder() {
  static Recorder one;
  return one;
}

}  // namespace

bool routes_wanted() { return recorder().on || log_debug_enabled(); }

void add_route(const std::string& line) {
  log_debug(line);
  if (!recorder().on) return;
  const std::lock_guard lock(recorder().mutex);
  recorder().lines.push_back(line);
}

std::vector<std::string> take_routes(bool go_on) {
  const std::lock_guard lock(recorder().mutex);
  recorder().on = go_on;
  return std::exchange(recorder().lines, {});
}

}  // namespace veneer
