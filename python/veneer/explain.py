# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Says of each adapted layer what runs there, and why."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from veneer import _core, base
from veneer.adapted import AdaptedLayer


@dataclass
class Row:
    """One adapter on one layer."""

    layer: str
    adapter: str
    method: str
    parameters: int  # trained
    path: str  # "fused": one op runs base and method; "called": the base is called, the method acts on its output
    reason: str
    saved_bytes: int | None = None  # kept for backward by the whole layer, its base included; None: not measured
    kernels: str | None = None  # what the updates of the whole layer were computed by; None: not measured


MEASURED = ("saved_bytes", "kernels")


class Explanation(list):
    """Rows, printable as a table."""

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        measured = any(row.saved_bytes is not None for row in self)
        names = [f.name for f in fields(Row) if measured or f.name not in MEASURED]
        table = Table(*names)
        for row in self:
            table.add_row(*(f"{v:,}" if isinstance(v := getattr(row, name), int) else str(v) for name in names))
        text = io.StringIO()
        Console(file=text, width=160).print(table)
        return text.getvalue()


def _path(layer: AdaptedLayer, name: str) -> tuple[str, str]:
    adapter = layer.adapters[name]
    if layer.disabled:
        return "off", "adapters are disabled"
    if layer.merged_adapters:
        return (
            ("merged", "its update is in the base weight")
            if name in layer.merged_adapters
            else ("off", "another adapter is merged")
        )
    if name not in layer.active:
        return "off", "not active"
    if layer.wiring != "linear":
        return "called", f"a hidden site, wiring {layer.wiring}"
    if not adapter.method.traits.runs_base:
        return "called", "a Python method is given the base's output"
    refusal = base.fused_refusal(layer.base_layer)
    if refusal:
        return "called", refusal
    if len(layer.active) > 1 and any(layer.adapters[n].method.traits.changes_input for n in layer.active):
        return "called", "several adapters scale the input"
    if name != layer.active[0]:
        return "called", f"{layer.active[0]} runs the base"
    reads = f"; {type(layer.base_layer).__name__} read as a weight ({layer.read_by})" if layer.read_by else ""
    return "fused", f"a plain {type(layer.base_layer).__name__}" + reads


def explain(host: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Explanation:
    """One row for every adapter on every layer; with inputs, one forward in the present mode also measures what each
    layer keeps for backward, and records by what it is computed."""
    layers = host.layers()
    saved, kernels = measure(host, layers, args, kwargs) if args or kwargs else ({}, {})
    rows = Explanation()
    for layer in layers:
        for name, adapter in layer.adapters.items():
            path, reason = _path(layer, name)
            count = sum(
                p.numel()
                for holder, attribute in adapter.own
                if isinstance(p := getattr(holder, attribute), nn.Parameter)
            )
            measured = saved.get(id(layer)), kernels.get(id(layer))
            rows.append(Row(layer.path, name, adapter.method.name, count, path, reason, *measured))
    return rows


def measure(
    host: nn.Module, layers: list[AdaptedLayer], args: tuple, kwargs: dict[str, Any]
) -> tuple[dict[int, int], dict[int, str]]:
    """Bytes of the storages that autograd keeps for each layer in one forward; parameters and what is already counted for
    an outer layer's caller excluded. Saved-tensor hooks see exactly what backward will use. And what the library says of
    each layer's updates."""
    parameters = {p.untyped_storage().data_ptr() for p in [*host.parameters(), *host.buffers()]}
    stack: list[int] = []
    found: dict[int, dict[int, int]] = {}
    routes: dict[int, list[str]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if stack and storage.data_ptr() not in parameters:
            found.setdefault(stack[-1], {})[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a saved output returned as it is would be a reference cycle, never freed

    def turn() -> None:
        """What was recorded so far belongs to the innermost layer that runs."""
        lines = _core.take_routes(True)
        if stack:
            routes.setdefault(stack[-1], []).extend(lines)

    def enter(module: nn.Module, _: Any) -> None:
        turn()
        stack.append(id(module))

    def leave(*_: Any) -> None:
        turn()
        stack.pop()

    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(enter))
        hooks.append(layer.register_forward_hook(leave, always_call=True))
    try:
        # The result is held to the end, so that no storage is freed and its address counted twice.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            held = host(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        _core.take_routes(False)
    del held
    kernels = {id(layer): "; ".join(routes.get(id(layer)) or ["torch's own operators"]) for layer in layers}
    return {key: sum(storages.values()) for key, storages in found.items()}, kernels
