# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Biases of the base that an adapter trains beside its own tensors (`bias` of a configuration)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class Biases:
    """Modules of the base whose `bias` is trained (the parameter itself may be replaced at any time), and the values that do
    not act now: the original ones, or the trained ones while the adapter is `resting`."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(dict.fromkeys(m for m in modules if m._parameters.get("bias") is not None))
        self.resting = False
        copies: dict[int, Tensor] = {}  # a tied bias has several modules and one copy
        self._other = [copies.setdefault(id(p), p.detach().clone()) for p in map(_bias, self.modules)]

    def trained(self) -> Iterator[tuple[nn.Module, Tensor]]:
        """Each module and its trained bias, wherever that is now."""
        for module, other in zip(self.modules, self._other, strict=True):
            yield module, other if self.resting else _bias(module)

    @torch.no_grad()
    def rest(self, resting: bool) -> None:
        """Puts the original values into the base, or the trained ones back."""
        if resting == self.resting:
            return
        done = set()
        for parameter, other in zip(map(_bias, self.modules), self._other, strict=True):
            if id(parameter) not in done:
                done.add(id(parameter))
                now = parameter.detach().clone()
                parameter.copy_(other)
                other.copy_(now)
        self.resting = resting


def _bias(module: nn.Module) -> nn.Parameter:
    return module._parameters["bias"]
