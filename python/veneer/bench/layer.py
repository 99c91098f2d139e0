# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Layer level: one frozen linear layer, or one hidden state."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from veneer.bench.assemble import Field
from veneer.bench.cases import Case
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, Contender, Sample, dtype_of


class _Linear(nn.Module):
    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(d_in, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x)


class _Hidden(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.hidden = nn.Identity()
        self.unused = nn.Parameter(torch.zeros(1))  # an identity has no dtype of its own
        self.config = SimpleNamespace(hidden_size=d)

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(x)


class _Copy(nn.Module):
    """The floor of a hidden state, where there is no frozen layer: one pass over it, forward and backward."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def ground(case: Case, device: torch.device) -> Field:
    """The frozen layer of a case with its input and floors."""
    torch.manual_seed(0)
    dtype = dtype_of(case.dtype)
    hidden = case.variant.kind == "hidden"
    base = (_Hidden(case.d_in) if hidden else _Linear(case.d_in, case.d_out)).to(device, dtype).requires_grad_(False)
    inner = "hidden" if hidden else "lin"
    x = torch.randn(case.tokens, case.d_in, device=device).to(dtype).requires_grad_(True)
    grad = torch.randn(case.tokens, case.d_out, device=device).to(dtype)

    def floor(name: str) -> Contender:
        return Contender(name, _Copy() if hidden else copy.deepcopy(base).get_submodule(inner))

    return Field(
        base,
        {"output": [inner]} if hidden else [inner],
        None,
        inner,
        Sample((x,), {}, grad, [x]),
        [floor(FLOOR), floor(FLOOR_AGAIN)],
        linear=not hidden,
    )
