#!/usr/bin/env python3
# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Runs all suites and closes with their sum: `N passed, M failed`. usage: run_tests.py BUILD_DIR [pytest arguments]"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def counts(report):
    """Passed, failed and skipped cases of a JUnit report, as GoogleTest and pytest write it."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            failed += 1
        elif "skipped" in tags or case.get("result") == "skipped":
            skipped += 1
        elif case.get("status") != "notrun":
            passed += 1
    return passed, failed, skipped


def run(command, reports, **environment):
    """Counts of what one command runs. If it died, or failed outside of any case (at collection, say), there is one more
    failure."""
    for report in reports:
        report.unlink(missing_ok=True)
    code = subprocess.run(command, cwd=ROOT, check=False, env=os.environ | environment).returncode
    passed, failed, skipped = map(
        sum, zip(*(counts(report) if report.exists() else (0, 0, 0) for report in reports), strict=True)
    )
    if failed == 0 and (code != 0 or passed + skipped == 0):
        print(f"{command[0]} ended with status {code} and {passed} passed cases", flush=True)
        failed = 1
    return passed, failed, skipped


def main():
    build = Path(sys.argv[1]).resolve()
    reports = build / "tests"
    pytest = [sys.executable, "-m", "pytest", "-n", str(min(4, os.cpu_count() or 1))]
    suites = [
        # ctest is the way in, so that its settings hold; the reports are GoogleTest's, with every case.
        run(
            ["ctest", "--test-dir", str(build), "--output-on-failure", "--parallel", str(os.cpu_count() or 1)],
            [reports / "cpp.xml", reports / "kernels.xml"],
            OMP_NUM_THREADS="1",  # tensors this small are slower on several; tests of threads ask for theirs
        ),
        # Each test runs on one thread, so files go to as many processes as there are cores, up to some memory's worth.
        run(
            [*pytest, "--dist", "loadfile", f"--junitxml={reports / 'python.xml'}", *sys.argv[2:]],
            [reports / "python.xml"],
            OMP_WAIT_POLICY="PASSIVE",  # threads that wait leave the cores to the other processes
        ),
    ]
    emulated = build / "tests" / "cuda" / "emulated" / "libveneer.so"
    if emulated.exists():  # not in a build without CUDA
        suites.append(
            run(
                [*pytest, f"--junitxml={reports / 'emulated.xml'}", *sorted(ROOT.glob("tests/python/test_gpu_*.py"))],
                [reports / "emulated.xml"],
                VENEER_EMULATED=str(emulated),
                OMP_NUM_THREADS="1",
            )
        )
    passed, failed, skipped = map(sum, zip(*suites, strict=True))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
