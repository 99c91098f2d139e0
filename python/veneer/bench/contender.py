# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""One of the things that are measured side by side: a module with its trained parameters, and how a step of it is
made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

FLOOR = "floor"
FLOOR_AGAIN = "floor again"
OURS = "veneer"
PLAIN = "plain"
DENSE = "dense"
PEER = "peft"
TENSORLY = {kind: f"tensorly {kind}" for kind in ("factorized", "reconstructed")}
COMPILED = " compiled"


@dataclass
class Sample:
    """Inputs of a step. `grad`: of the output; None where the output is a loss. `leaves`: inputs that get a
    gradient."""

    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    grad: Tensor | None = None
    leaves: list[Tensor] = field(default_factory=list)

    def cast(self, dtype: torch.dtype) -> Sample:
        """A copy with every floating-point tensor in another precision; leaves stay leaves."""
        made: dict[int, Tensor] = {}

        def one(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            if id(value) not in made:
                made[id(value)] = value.detach().to(dtype).requires_grad_(value.requires_grad)
            return made[id(value)]

        args, kwargs = tuple(one(a) for a in self.args), {k: one(v) for k, v in self.kwargs.items()}
        return Sample(args, kwargs, one(self.grad), [one(leaf) for leaf in self.leaves])


@dataclass
class Mapped:
    """A trained parameter of a contender, known under our name for it: how our value is written into it, and its
    gradient turned into ours."""

    parameter: nn.Parameter
    from_ours: Callable[[Tensor], Tensor] = lambda t: t
    grad_to_ours: Callable[[Tensor], Tensor] = lambda t: t

    def set(self, value: Tensor) -> None:
        with torch.no_grad():
            self.parameter.copy_(self.from_ours(value))


@dataclass
class Contender:
    """A module to measure.

    Attributes:
        name: FLOOR, OURS, ...
        module: called with the sample's arguments.
        parameters: our name of a trained parameter -> where it is here.
        optimizer: whose step is part of a step; without one, parameters are changed between steps outside the timing.
        scope: the module whose parameters and buffers are not counted as saved for backward (default `module`).
        uncompared: regular expression of results that are known to be wrong in this contender; `note` says why.
        alive: storages, pointer -> bytes, that live after forward without being saved for backward: leaves made within.
    """

    name: str
    module: Callable[..., Any]
    parameters: dict[str, Mapped] = field(default_factory=dict)
    optimizer: torch.optim.Optimizer | None = None
    scope: nn.Module | None = None
    uncompared: str = ""
    note: str = ""
    alive: dict[int, int] = field(default_factory=dict)
    _values: list[list[Tensor]] = field(default_factory=list)
    _turn: int = 0

    @property
    def trainable(self) -> int:
        return sum(m.parameter.numel() for m in self.parameters.values())

    def resident(self) -> set[int]:
        """Storages of parameters and buffers."""
        scope = self.scope if self.scope is not None else self.module
        tensors = [*scope.parameters(), *scope.buffers(), *(m.parameter for m in self.parameters.values())]
        return {t.untyped_storage().data_ptr() for t in tensors}

    def on_cuda(self) -> bool:
        scope = self.scope if self.scope is not None else self.module
        return any(p.is_cuda for p in scope.parameters())

    def forward(self, sample: Sample) -> Tensor:
        """The output, or the loss where the module gives one."""
        out = self.module(*sample.args, **sample.kwargs)
        return out if isinstance(out, Tensor) else out.loss

    def backward(self, out: Tensor, sample: Sample) -> None:
        out.backward(sample.grad)

    def finish(self) -> None:
        """What else belongs to a step."""
        if self.optimizer is not None:
            self.optimizer.step()

    def clear_gradients(self, sample: Sample) -> None:
        for tensor in sample.leaves:
            tensor.grad = None
        for mapped in self.parameters.values():
            mapped.parameter.grad = None

    def clear(self, sample: Sample) -> None:
        """Drops gradients and, where no optimizer does, changes the parameters, so that nothing derived from them can
        be kept from step to step."""
        self.clear_gradients(sample)
        if self.optimizer is None and self.parameters:
            parameters = [m.parameter for m in self.parameters.values()]
            with torch.no_grad():
                if not self._values:
                    first = [p.clone() for p in parameters]
                    self._values = [first, [p * (1 + 0.05 * torch.randn_like(p)) for p in first]]
                self._turn ^= 1
                for parameter, value in zip(parameters, self._values[self._turn], strict=True):
                    parameter.copy_(value)

    def step(self, sample: Sample) -> None:
        """One whole step."""
        self.backward(self.forward(sample), sample)
        self.finish()


def dtype_of(name: str) -> torch.dtype:
    """`torch.float32` for "float32"."""
    return getattr(torch, name)
