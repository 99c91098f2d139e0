# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Every test starts from the same random numbers, without network, and on few threads."""

import os

# Before torch is imported. No test may reach for the network, and a compile cache on disk could hide a failure.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("VENEER_LOG", None)

import ctypes
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]

# With tests/cuda's library loaded first, the module takes it for its own, and the kernels of a GPU run on an emulated one.
emulated = os.environ.get("VENEER_EMULATED")
emulator = ctypes.CDLL(emulated, mode=ctypes.RTLD_GLOBAL) if emulated else None
if emulator:
    emulator.veneer_emulated_launches.restype = ctypes.c_char_p


@pytest.fixture(autouse=True)
def seeded(request):
    """The same numbers whichever tests run, and in whatever order; tensors this small are slower on many threads."""
    if emulator:
        emulator.veneer_emulated_device(9, ctypes.c_uint64(zlib.crc32(request.node.nodeid.encode())))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def fresh_compiler():
    """No graph of another test, before and after."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def root():
    """The folder of the sources."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data and weights: VENEER_SHARED_DATA, or shared/data beside or above the sources."""
    given = os.environ.get("VENEER_SHARED_DATA")
    candidates = [Path(given)] if given else [folder / "shared" / "data" for folder in (ROOT, *ROOT.parents)]
    for folder in candidates:
        if (folder / "MANIFEST.md").is_file():
            return folder
    pytest.skip(f"no data: looked for MANIFEST.md in {', '.join(map(str, candidates))}; set VENEER_SHARED_DATA")
