# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What can be seen of GPU kernels without a GPU, in the machine code that the build made: both architectures, no atomics
(results are the same from run to run), and registers that suffice."""

import os
import re
import shutil
import subprocess
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from veneer import _build_info

LIBRARY = Path(_build_info.CMAKE_DIR).parent / "libveneer.so"
TRITON = find_spec("triton")  # a CUDA build of torch brings it, and it brings NVIDIA's disassembler
TOOLS = str(Path(TRITON.origin).parent / "backends" / "nvidia" / "bin") if TRITON else None
CUOBJDUMP = shutil.which("cuobjdump", path=TOOLS) or shutil.which("cuobjdump")

pytestmark = [
    pytest.mark.skipif(
        not LIBRARY.is_file() or CUOBJDUMP is None, reason="runs from an in-place build, with cuobjdump"
    ),
    pytest.mark.skipif(
        not torch._C._dispatch_has_kernel_for_dispatch_key("veneer::seeded_dropout", "CUDA"),
        reason="veneer was built without CUDA kernels",
    ),
]

FILE = re.compile(r"N__[0-9a-f]{8}_\d+_(\w+?)_cu_[0-9a-f]{8}")  # of a kernel, in the name of its unnamed namespace
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)")
ATOMIC = {"ATOM", "ATOMS", "ATOMG", "RED", "REDG", "REDAS"}
SPILL = {"LDL", "STL"}


@pytest.fixture(scope="module")
def kernels():
    """(architecture, name) -> how often each instruction stands in a kernel."""
    command = [CUOBJDUMP, "-sass", str(LIBRARY)]
    found, counts, architecture = {}, Counter(), None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if match := INSTRUCTION.match(line):
                counts[match[1]] += 1
            elif "arch = " in line:
                architecture = line.split()[-1]
            elif "Function : " in line:
                counts = found.setdefault((architecture, line.split()[-1]), Counter())
    assert process.returncode == 0
    return found


def test_every_file_of_kernels_is_there_for_both_architectures(kernels, root):
    if (
        "TORCH_CUDA_ARCH_LIST" in os.environ
        or "TORCH_CUDA_ARCH_LIST" in (LIBRARY.parent / "CMakeCache.txt").read_text()
    ):
        pytest.skip("built for other architectures than usual")
    files = {path.stem for path in (root / "src" / "kernels" / "cuda").glob("*.cu")}
    for architecture in ("sm_80", "sm_90a"):
        have = {FILE.search(name)[1] for arch, name in kernels if arch == architecture}
        assert have == files


def test_nothing_is_summed_with_atomics(kernels):
    assert not {(key, *ATOMIC & counts.keys()) for key, counts in kernels.items() if ATOMIC & counts.keys()}


def test_registers_suffice(kernels):
    assert not {(key, *SPILL & counts.keys()) for key, counts in kernels.items() if SPILL & counts.keys()}
