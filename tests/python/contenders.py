# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the benchmark suite share: the contenders of a small layer."""

import torch

from veneer.bench import layer
from veneer.bench.assemble import assemble
from veneer.bench.cases import Case, variant

CPU = torch.device("cpu")
N, D = 64, 192


def built(name="lora-r8", p=0.0, dtype="float32", adapter_dtype=None, d_out=D):
    """The contenders of a small layer, compared."""
    case = Case(variant(name), dtype, adapter_dtype or dtype, p, D, d_out, N)
    ground = layer.ground(case, CPU)
    assemble(case, ground)
    return ground, {c.name: c for c in ground.contenders}
