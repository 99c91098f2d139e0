# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Loads the C++ core, after comparing the torch it was built against with the one found: a different minor version has
another ABI, and would fail on an undefined symbol or worse."""

import torch

from veneer._build_info import TORCH_VERSION


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


if _minor(TORCH_VERSION) != _minor(torch.__version__):
    raise ImportError(
        f"[veneer] built against torch {TORCH_VERSION}, found torch {torch.__version__}: "
        f"install torch {_minor(TORCH_VERSION)}.*, or rebuild veneer against the torch you have (pip install .)"
    )

from veneer import _core  # noqa: E402, F401 - loading it registers torch.ops.veneer
