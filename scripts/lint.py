#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Everything `make lint` checks; goes on after a failure. usage: lint.py BUILD_DIR (a configured one)"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
CPP_FOLDERS = ("src", "include", "python/bindings", "tests/cpp", "tests/cuda", "benchmarks/cpp", "examples/cpp")


def sources(*suffixes):
    return sorted(path for folder in CPP_FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)


def run(title, *command):
    """True when the command succeeds; says so, or shows what it wrote."""
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    ok = result.returncode == 0
    print(f"{title}: {'ok' if ok else 'FAILED'}", flush=True)
    if not ok or "warning:" in result.stdout:
        print(result.stdout + result.stderr, flush=True)
    return ok


def clang_command(entry):
    """An entry of the compile database, for clang: without gcc's precompiled header, its OpenMP and what only gcc knows."""
    words = iter(shlex.split(entry["command"])[1:])
    kept = []
    for word in words:
        if word == "-include" or word == "-o":
            next(words)
        elif word not in ("-c", "-Winvalid-pch", "-fpch-preprocess", "-fopenmp") and not word.startswith(
            "-fno-fat-lto"
        ):
            kept.append(word)
    return kept


def clang_tidy(build):
    """Over the library and the binding. A file that passed is not looked at again until it or any header changes."""
    passed = build / "lint"
    passed.mkdir(exist_ok=True)
    headers = hashlib.sha256()
    for path in [ROOT / ".clang-tidy", *sources(".h")]:
        headers.update(path.read_bytes())

    def check(entry):
        command = clang_command(entry)
        key = hashlib.sha256(headers.digest() + Path(entry["file"]).read_bytes() + " ".join(command).encode())
        stamp = passed / key.hexdigest()
        if stamp.exists():
            return None
        result = subprocess.run(
            [BIN / "clang-tidy", "--quiet", entry["file"], "--", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode == 0:
            stamp.touch()
            return None
        return result.stdout or result.stderr

    database = json.loads((build / "compile_commands.json").read_text())
    entries = {  # by file: some are compiled for the emulated GPU too
        entry["file"]: entry
        for entry in reversed(database)
        if entry["file"].endswith(".cpp") and Path(entry["file"]).relative_to(ROOT).parts[0] in ("src", "python")
    }.values()
    failed = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for text in pool.map(check, entries):
            if text:
                failed = True
                print(text, flush=True)
    print(f"clang-tidy, {len(entries)} files: {'FAILED' if failed else 'ok'}", flush=True)
    return not failed


def main():
    build = Path(sys.argv[1]).resolve()
    results = [
        run("clang-format", BIN / "clang-format", "--dry-run", "-Werror", *sources(".h", ".cpp", ".cu", ".cuh")),
        run("ruff check", BIN / "ruff", "check", "."),
        run("ruff format", BIN / "ruff", "format", "--check", "."),
        run("layout and sizes", sys.executable, ROOT / "scripts" / "check_sources.py"),
        clang_tidy(build),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
