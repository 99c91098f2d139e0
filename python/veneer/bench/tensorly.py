# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Block tensor trains in tensorly-torch: its linear layer added to a frozen one, with equal cores."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from veneer.adapted import AdaptedLayer
from veneer.bench.cases import Case
from veneer.bench.contender import TENSORLY
from veneer.bench.peers import Unavailable
from veneer.bench.plain import Params, PlainAdditive, PlainLayer, plain_layer


class TensorlyAdditive(PlainAdditive):
    """y = W x + b + s * (block tensor train) dropout(x)."""

    def use(self, implementation: str) -> TensorlyAdditive:
        """Chooses what the library makes of a product: x contracted with core after core, or with the dense matrix."""
        import tltorch

        cores = list(self.tensors)  # [r, o_k, i_k, r]
        rows, columns = (tuple(core.shape[side] for core in cores) for side in (1, 2))
        train = tltorch.BlockTT(cores, (rows, columns), (*(core.shape[0] for core in cores), 1))
        self.linear = tltorch.FactorizedLinear(
            columns, rows, bias=False, factorization=train, implementation=implementation, dtype=cores[0].dtype
        )
        return self

    def update(self, x: Tensor, p: Params) -> Tensor:  # noqa: ARG002
        out = self.linear(x.to(self.tensors[0].dtype))
        return out if self.options["scale"] == 1.0 else self.options["scale"] * out


def _layer(layer: AdaptedLayer, base_layer: nn.Module, implementation: str) -> PlainLayer:
    if importlib.util.find_spec("tltorch") is None:
        raise Unavailable("tensorly-torch is not installed")
    (adapter,) = layer.adapters.values()
    if any(spec.name == "magnitude" for spec in adapter.specs):
        raise Unavailable("tensorly-torch has no magnitude")
    if any(core.dim() != 4 for core in adapter.params()):
        raise Unavailable("tensorly-torch's linear layer has trains of the block layout only")
    plain = plain_layer(layer, base_layer)
    return TensorlyAdditive(base_layer, adapter, plain.d_in, plain.d_out).use(implementation)


def layers(case: Case) -> dict[str, Callable[..., Any]]:
    """Contender -> what builds a layer of it, for the cases that the library has something for."""
    if (case.variant.method, case.variant.matrix) != ("additive", "tensor_train"):
        return {}
    return {name: partial(_layer, implementation=kind) for kind, name in TENSORLY.items()}
