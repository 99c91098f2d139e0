#!/usr/bin/env bash
# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# Names the system packages that are missing and, where apt and the rights are there, installs them.
# usage: system_packages.sh [python]
set -euo pipefail

missing=()
python=${1:-python3}
if command -v "${CXX:-c++}" >/dev/null; then
  # One run of the preprocessor: every line that is left is a package.
  probe=$(
    while read -r header package; do
      printf '#if !__has_include(<%s>)\n%s\n#endif\n' "$header" "$package"
    done <<'END'
nlohmann/json.hpp nlohmann-json3-dev
spdlog/spdlog.h libspdlog-dev
gtest/gtest.h libgtest-dev
benchmark/benchmark.h libbenchmark-dev
CLI/CLI.hpp libcli11-dev
END
  )
  mapfile -t missing < <("${CXX:-c++}" -E -P -x c++ - <<<"$probe")
else
  missing=(g++ nlohmann-json3-dev libspdlog-dev libgtest-dev libbenchmark-dev libcli11-dev)
fi
if ! command -v "$python" >/dev/null; then
  missing+=(python3 python3-venv python3-dev)
else
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  "$python" -c 'import os, sysconfig as s; raise SystemExit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
    missing+=(python3-dev)
fi

[ ${#missing[@]} -gt 0 ] || exit 0

echo "Missing system packages: ${missing[*]}"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
else
  echo "Install them (the names are Debian's and Ubuntu's): sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
