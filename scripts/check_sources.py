#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the layout promises and no compiler checks. Errors fail; sizes over the house's limits are warnings."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("src", "include", "python", "tests", "benchmarks", "examples", "scripts", "cmake")
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}

# folder, includes that no file below it may have, why
FORBIDDEN = [
    ("src/kernels", r"(torch|ATen|c10|caffe2)/", "kernels see plain structs: no torch, ATen or c10 header"),
    ("src/matrices", r"torch/torch\.h", "ATen is enough here, and torch/torch.h costs seconds a file"),
    ("src/methods", r"torch/torch\.h", "ATen is enough here, and torch/torch.h costs seconds a file"),
]

# First match counts.
LIMITS = [
    (r"src/(methods|matrices)/.*\.cpp", 120),
    (r"src/ops/.*\.cpp", 200),
    (r"src/kernels/.*", 300),
    (r"python/bindings/.*", 300),
    (r"(.*/)?CMakeLists\.txt|cmake/.*", 250),
    (r"(src|include|python|scripts)/.*", 400),
]


def files():
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES or path.name == "CMakeLists.txt":
                yield path.relative_to(ROOT).as_posix(), path.read_text()
    yield "CMakeLists.txt", (ROOT / "CMakeLists.txt").read_text()


def check(name, text):
    """Errors and warnings of one file."""
    errors, warnings = [], []
    for folder, pattern, reason in FORBIDDEN:
        if name.startswith(folder + "/"):
            errors += [f"includes {m[1]}: {reason}" for m in re.finditer(rf'#\s*include\s*[<"]({pattern}[^>"]*)', text)]
    if "SPDX-License-Identifier: Apache-2.0" not in text[:400] and not name.endswith("_build_info.py"):
        errors.append("has no SPDX header")
    limit = next((lines for pattern, lines in LIMITS if re.fullmatch(pattern, name)), None)
    lines = text.count("\n")
    if limit and lines > limit:
        warnings.append(f"{lines} lines, the limit is {limit}")
    return errors, warnings


def main():
    failed = False
    for name, text in files():
        errors, warnings = check(name, text)
        failed |= bool(errors)
        for kind, messages in (("error", errors), ("warning", warnings)):
            for message in messages:
                print(f"{name}: {kind}: {message}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
