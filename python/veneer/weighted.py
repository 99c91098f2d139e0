# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Weighted sums of LoRA adapters as a new adapter (`PeftModel.add_weighted_adapter`). By type of combination, over the layers
that any of the adapters is on, with w the weights and s the adapters' scales:

- "cat": the sum of w s B A, exactly: factors beside each other, ranks add up.
- "svd": the closest sum of rank `svd_rank` (the highest of the adapters').
- "linear": the factors are summed, sqrt(w s) times A and B each, which is not the sum of the updates; ranks must be equal.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veneer import sites
from veneer.adapted import AdaptedLayer, Adapter
from veneer.config import PeftConfig
from veneer.names import listed, named, suggestion

if TYPE_CHECKING:
    from veneer.model import PeftModel

KINDS = ("linear", "cat", "svd")
Factors = tuple[Tensor, Tensor]  # A [r, d_in], B [d_out, r]


def add(
    model: PeftModel, names: list[str], weights: list[float], new: str, kind: str, svd_rank: int | None = None
) -> None:
    """Adds the combination under the name `new`, not active. On any error the model is as before."""
    host = model.base_model
    configs = [host.known(name) for name in names]
    _check(host.saved(), names, configs, weights, kind, svd_rank)
    layers = [layer for layer in host.layers() if layer.adapters.keys() & set(names)]
    parts = {layer: _parts(layer, names, weights) for layer in layers}
    ranks = [
        max(layer.adapters[name].params()[0].shape[0] for layer in layers if name in layer.adapters) for name in names
    ]
    if kind == "linear" and len({a.shape[0] for found in parts.values() for _, (a, _) in found}) > 1:
        raise ValueError(
            f"[veneer] combination_type='linear' expected adapters of one rank, got "
            f"{listed(f'{name} of {rank}' for name, rank in zip(names, ranks, strict=True))}; 'cat' and 'svd' take any"
        )
    rank = sum(ranks) if kind == "cat" else svd_rank or max(ranks)
    combined = {layer: _COMBINE[kind](found, rank) for layer, found in parts.items()}
    dtypes = {
        t.dtype for name in names for layer in layers if name in layer.adapters for t in layer.adapters[name].params()
    }
    model.add_adapter(new, _config(model, configs[0], layers, rank), autocast_adapter_dtype=torch.float32 in dtypes)
    with torch.no_grad():
        for layer, factors in combined.items():
            for target, factor in zip(layer.adapters[new].params(), factors, strict=True):
                target.zero_()  # a rank that a layer does not fill stays empty
                target[tuple(map(slice, factor.shape))].copy_(factor)


def _check(
    saved: list[Any], names: list[str], configs: list[PeftConfig], weights: list[float], kind: str, svd_rank: int | None
) -> None:
    if kind not in KINDS:
        raise ValueError(
            f"[veneer] combination_type must be one of: {', '.join(KINDS)}; got {kind}{suggestion(str(kind), KINDS)}"
        )
    if not names or len(weights) != len(names):
        raise ValueError(
            f"[veneer] expected one weight for each of one or more adapters, got {len(names)} adapters and {len(weights)} weights"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"[veneer] weights must be finite numbers, got {weights}")
    if svd_rank is not None and (kind != "svd" or svd_rank < 1):
        raise ValueError(
            f"[veneer] svd_rank must be positive, and is of combination_type='svd' alone; got {svd_rank} with {kind!r}"
        )
    for name, config in zip(names, configs, strict=True):
        reason = None
        if config.peft_type != "LORA":
            reason = f"is a {type(config).__name__}"
        elif config.use_dora:
            reason = "is a DoRA: its magnitudes are not a sum"
        elif config.bias != "none":
            reason = "trains biases of the base"
        elif isinstance(config.target_modules, dict):
            reason = "is at hidden states"
        elif any(name in wrapper.modules_to_save for wrapper in saved):
            reason = "has modules of its own (modules_to_save)"
        if reason:
            raise ValueError(f"[veneer] a weighted sum expected plain LoRA adapters of linear layers; {name} {reason}")


def _config(model: PeftModel, first: PeftConfig, layers: list[AdaptedLayer], rank: int) -> PeftConfig:
    paths = [layer.path for layer in layers]
    exact = all(named(paths, place.path) == (place.path in paths) for place in sites.places(model.get_base_model()))
    values = {
        **first.to_dict(),
        "r": rank,
        "lora_alpha": rank,  # a scale of one
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "target_modules": paths
        if exact
        else "|".join(map(re.escape, paths)),  # a list also matches ends of longer paths
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    del values["peft_type"]
    return type(first)(**values)


def _parts(layer: AdaptedLayer, names: list[str], weights: list[float]) -> list[tuple[float, Factors]]:
    """Weight times scale, and the factors, of each adapter here; in float32 at least."""
    found = []
    for name, weight in zip(names, weights, strict=True):
        if name in layer.adapters:
            adapter = layer.adapters[name]
            a, b = (t.detach().to(torch.promote_types(t.dtype, torch.float32)) for t in adapter.params())
            found.append((weight * _scale(adapter), (a, b)))
    return found


def _scale(adapter: Adapter) -> float:
    """What the method multiplies B A with: its own answer to factors, an input and an output of one element each."""
    a, b = (torch.zeros(t.shape, dtype=torch.float64) for t in adapter.params())
    x, y = torch.zeros(1, a.shape[1], dtype=torch.float64), torch.zeros(1, b.shape[0], dtype=torch.float64)
    a[0, 0] = b[0, 0] = x[0, 0] = 1.0
    return adapter.method.forward(x, y, None, None, [a, b], None)[0, 0].item()


def _cat(parts: list[tuple[float, Factors]], rank: int) -> Factors:  # noqa: ARG001
    return torch.cat([factor * a for factor, (a, _) in parts]), torch.cat([b for _, (_, b) in parts], dim=1)


def _linear(parts: list[tuple[float, Factors]], rank: int) -> Factors:  # noqa: ARG001
    return (
        sum(math.copysign(math.sqrt(abs(factor)), factor) * a for factor, (a, _) in parts),
        sum(math.sqrt(abs(factor)) * b for factor, (_, b) in parts),
    )


def _svd(parts: list[tuple[float, Factors]], rank: int) -> Factors:
    u, s, v = torch.linalg.svd(sum(factor * b @ a for factor, (a, b) in parts), full_matrices=False)
    return v[:rank], u[:, :rank] * s[:rank]


_COMBINE = {"cat": _cat, "linear": _linear, "svd": _svd}
