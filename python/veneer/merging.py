# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Merging adapters into the base's weights, and taking them out again: all layers or none."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from veneer import sites
from veneer.adapted import AdaptedLayer
from veneer.names import listed

if TYPE_CHECKING:
    from veneer.host import Host


def merge(
    host: Host,
    names: list[str] | None,
    keep_on: torch.device | str | None = None,
    safe: bool = False,
    progress: Any = None,
    keep: bool = True,
) -> None:
    """Writes adapters (the active ones) into the base weights. Their saved modules act while they are merged."""
    names = list(host.active if names is None else names)
    for name in names:
        host.known(name)
    if not names:
        raise RuntimeError("[veneer] no adapter is active, so there is nothing to merge: set_adapter(name) first")
    if host.disabled:
        raise RuntimeError("[veneer] adapters are disabled: leave disable_adapter() before merging")
    if _already(host, names):
        warnings.warn(f"[veneer] {listed(names)} is merged already", stacklevel=3)
        return
    active, frozen = host.active, host.frozen
    host.activate(names, frozen)  # refuses what cannot act together
    host.activate(active, frozen)
    here = {layer: [name for name in names if name in layer.adapters] for layer in host.layers()}
    layers = [layer for layer in here if here[layer]]
    _check(host, here, layers)
    updates = [layer.merged(here[layer], safe) for layer in (progress(layers) if progress else layers)]
    done = []
    try:
        for layer in layers:
            layer.merge(here[layer], updates.pop(0), keep_on, keep)
            done.append(layer)
    except BaseException:  # no memory for a copy
        for layer in done:
            layer.unmerge()
        raise
    for wrapper in host.saved():
        wrapper.activate(names)


def _already(host: Host, names: list[str]) -> bool:
    """Whether `names` are what is merged; refuses where others are."""
    merged = host.merged()
    if merged and merged != set(names):
        raise RuntimeError(
            f"[veneer] {listed(sorted(merged))} is merged: unmerge_adapter() before merging {listed(names)}"
        )
    return bool(merged)


def _check(host: Host, here: dict[AdaptedLayer, list[str]], layers: list[AdaptedLayer]) -> None:
    owners: dict[int, list[str]] = {}  # of each stored tensor: paths, all names of a module among them
    everywhere = [("the model", host.model), *((place.path, place.module) for place in sites.places(host.model))]
    for path, module in everywhere:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            owners.setdefault(id(tensor), []).append(path)
    for layer in layers:
        refusal = layer.merge_refusal(here[layer])
        if refusal:
            raise ValueError(f"[veneer] cannot merge: {refusal}")
        for name in ("weight", "bias") if _changes_bias(layer, here[layer]) else ("weight",):
            others = [path for path in owners[id(getattr(layer.base_layer, name))] if path != layer.path]
            if others:
                raise ValueError(
                    f"[veneer] cannot merge: the {name} of {layer.path} is also that of {listed(others)}, which merging "
                    "would change; untie them first"
                )


@torch.no_grad()
def _changes_bias(layer: AdaptedLayer, names: list[str]) -> bool:
    bias = getattr(layer.base_layer, "bias", None)
    adapters = [layer.adapters[name] for name in names]
    return bias is not None and not all(torch.equal(a.method.bias(bias, a.params(bias.device)), bias) for a in adapters)


def unmerge(host: Host) -> None:
    """Puts the kept weights back, bit for bit."""
    if not host.merged():
        warnings.warn("[veneer] nothing is merged", stacklevel=3)
    for layer in host.layers():
        layer.unmerge()
    for wrapper in host.saved():
        wrapper.activate(host.active)


def merge_and_unload(host: Host, names: list[str] | None, safe: bool = False, progress: Any = None) -> nn.Module:
    """The plain model with adapters (those merged already, or the active ones) in its weights. Keeps no copies."""
    merged = sorted(host.merged())
    if not _already(host, names if names is not None else merged):
        merge(host, names, safe=safe, progress=progress, keep=False)
    return host.unload()
