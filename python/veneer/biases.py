# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Biases of the base that an adapter trains beside its own tensors (`bias` of a configuration)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

Slot = tuple[nn.Module, str]  # where a parameter is registered; the parameter itself may be replaced at any time


class Biases:
    """Trained parameters of the base, and the values that do not act now: the original ones, or the trained ones while the
    adapter is `resting`."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        self.slots = list(slots)
        self.resting = False
        copies: dict[int, Tensor] = {}  # a tied bias has several slots and one copy
        self._other = [
            copies.setdefault(id(parameter), parameter.detach().clone()) for parameter in map(_parameter, self.slots)
        ]

    def trained(self) -> Iterator[tuple[Slot, Tensor]]:
        """Each slot and its trained values, wherever they are now."""
        for slot, other in zip(self.slots, self._other, strict=True):
            yield slot, other if self.resting else _parameter(slot)

    @torch.no_grad()
    def rest(self, resting: bool) -> None:
        """Puts the original values into the base, or the trained ones back."""
        if resting == self.resting:
            return
        done = set()
        for parameter, other in zip(map(_parameter, self.slots), self._other, strict=True):
            if id(parameter) not in done:
                done.add(id(parameter))
                now = parameter.detach().clone()
                parameter.copy_(other)
                other.copy_(now)
        self.resting = resting


def _parameter(slot: Slot) -> nn.Parameter:
    module, name = slot
    return module._parameters[name]
