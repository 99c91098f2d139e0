# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The adapted layer: one module that holds a base layer and its named adapters, at linear and at hidden sites."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from veneer import base
from veneer.method import BoundMethod, Spec
from veneer.names import listed

# How a layer's adapters are wired to its base. `u` is the (first) output of the base, `x` its (named) argument.
WIRINGS = {
    "linear": "y = method(x, W): the base is a linear layer",
    "output": "u -> u + a(u): after a module's output",
    "norm": "v -> LN(v + a(LN(v))): around a LayerNorm",
    "input": "an argument x -> x + a(x), where the module adds x itself",
    "parallel": "u -> u + a(x): beside a module",
}


class Tensors(nn.Module):
    """A namespace of parameters, buffers and further namespaces: `lora_A.default.weight` is `Tensors` within `Tensors`, so
    that state dicts have HF PEFT's keys."""

    def at(self, path: list[str]) -> Tensors:
        """The namespace below, made where it is missing."""
        here = self
        for part in path:
            if part not in here._modules:
                here.add_module(part, Tensors().train(here.training))
            here = here._modules[part]
        return here

    def put(self, name: str, tensor: Tensor, trainable: bool) -> None:
        """Registers a parameter, or a buffer where it is not trained."""
        if trainable:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    def prune(self, path: list[str]) -> None:
        """Removes what lies at `path`, and the namespaces that it leaves empty."""
        if len(path) > 1:
            below = self._modules[path[0]]
            below.prune(path[1:])
            if not (below._modules or below._parameters or below._buffers):
                del self._modules[path[0]]
        else:
            for table in (self._modules, self._parameters, self._buffers):
                table.pop(path[0], None)


Slot = tuple[nn.Module, str]  # where a tensor is registered; the tensor itself may be replaced at any time


@dataclass(eq=False)
class Adapter:
    """One adapter on one layer: a bound method and where its tensors are."""

    method: BoundMethod
    own: list[Slot]
    shared: list[Slot]
    specs: list[Spec] = field(default_factory=list)  # of the own tensors

    def params(self, device: torch.device | None = None) -> list[Tensor]:
        """Its tensors, in the order of the method's specs. Shared ones lie on one device, and a model's layers may lie on
        several: they come to `device`."""
        own = [base.tensor(holder, name) for holder, name in self.own]
        if not self.shared:
            return own
        shared = [base.tensor(holder, name) for holder, name in self.shared]
        return own + (shared if device is None else [tensor.to(device) for tensor in shared])

    def forward(
        self, x: Tensor, y: Tensor | None, weight: Tensor | None, bias: Tensor | None, training: bool
    ) -> Tensor:
        seed = None
        if training and self.method.traits.dropout > 0.0:
            # A tensor of torch's own generator: manual_seed, checkpointing and CUDA graphs work as with nn.Dropout.
            seed = torch.randint(0, 2**63 - 1, (1,), device=x.device)
        return self.method.forward(x, y, weight, bias, self.params(x.device), seed)


class AdaptedLayer(nn.Module):
    """A base layer with named adapters. Shapes are the base's.

    Attributes:
        base_layer: the frozen layer.
        wiring: a key of `WIRINGS`.
        path: the base's path in the model the user gave.
        adapters: name -> Adapter.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        path: str,
        wiring: str = "linear",
        *,
        size: int | None = None,
        argument: int = 0,
        read_by: str | None = None,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.path = path
        self.wiring = wiring
        self.size = size  # of a hidden state
        self.argument = argument  # index of the state among the base's arguments
        self.read_by = read_by  # "always", "eval": the parent reads `.weight` (base.weight_reader)
        self.adapters: dict[str, Adapter] = {}
        self.active: list[str] = []
        self.disabled = False
        self.merged_adapters: list[str] = []
        self._kept: dict[str, Tensor] = {}  # the unmerged weight and bias while merged
        self._running: tuple[Adapter, ...] = ()
        names = list(inspect.signature(type(base_layer).forward).parameters)[1:]
        self._argument_name = names[argument] if argument < len(names) else None
        self.training = base_layer.training

    # Adapters -------------------------------------------------------------------------------------------------------

    def site(self) -> dict[str, Any]:
        """What a method is bound to, in the core's words."""
        if self.wiring != "linear":
            return {"kind": "hidden", "d_in": self.size, "d_out": self.size, "has_weight": False, "has_bias": False}
        d_in, d_out = base.sizes(self.base_layer)
        return {
            "kind": "linear",
            "d_in": d_in,
            "d_out": d_out,
            "has_weight": base.dense_weight(self.base_layer) is not None,
            "has_bias": getattr(self.base_layer, "bias", None) is not None,
        }

    def add(self, name: str, method: BoundMethod, shared: list[Slot], dtype: torch.dtype, device: torch.device) -> None:
        """Adds an adapter with fresh tensors; it is not yet active."""
        self._check_read(name, method)
        weight = base.dense_weight(self.base_layer) if self.wiring == "linear" else None
        if weight is not None:
            weight = weight.detach()
        if "weight" in self._kept:
            raise RuntimeError(f"[veneer] {self.path} is merged: unmerge_adapter() before adding an adapter")
        adapter = Adapter(method, [], shared, method.own)
        with torch.no_grad():
            tensors = method.start(weight, adapter.params(device), dtype, device)
        for spec, tensor in zip(method.own, tensors, strict=True):
            *path, last = spec.key.format(adapter=name).split(".")
            holder = self if not path else self._holder(path)
            Tensors.put(holder, last, tensor, spec.trainable)
            adapter.own.append((holder, last))
        self.adapters[name] = adapter

    def _holder(self, path: list[str]) -> Tensors:
        if path[0] not in self._modules:
            self.add_module(path[0], Tensors().train(self.training))
        return self._modules[path[0]].at(path[1:])

    def remove(self, name: str) -> None:
        """Deletes an adapter and frees its tensors."""
        for spec in self.adapters.pop(name).specs:
            path = spec.key.format(adapter=name).split(".")
            Tensors.prune(self, path)
        self.activate([active for active in self.active if active != name])

    def activate(self, names: list[str]) -> None:
        """Sets the adapters that act, those of `names` that this layer has; refuses a set that cannot act together."""
        here = [name for name in names if name in self.adapters]
        compositions = {self.adapters[name].method.traits.composition for name in here}
        if len(here) > 1 and (len(compositions) > 1 or compositions == {"exclusive"}):
            kinds = listed(
                f"{name} ({self.adapters[name].method.name}, {self.adapters[name].method.traits.composition})"
                for name in here
            )
            raise ValueError(
                f"[veneer] adapters cannot act together at {self.path}: {kinds}; additive ones sum, scalings "
                "multiply, and any other must be active alone"
            )
        self.active = here
        self._refresh()

    def disable(self, disabled: bool) -> None:
        self.disabled = disabled
        self._refresh()

    def _refresh(self) -> None:
        acting = not self.disabled and not self.merged_adapters
        self._running = tuple(self.adapters[name] for name in self.active) if acting else ()

    # Forward --------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        running = self._running
        if not running:
            self._refuse_training_merged()
            return self.base_layer(*args, **kwargs)
        if self.wiring == "linear":
            return self._linear(running, *args, **kwargs)
        return self._hidden(running, args, kwargs)

    def _refuse_training_merged(self) -> None:
        if self.merged_adapters and self.training and torch.is_grad_enabled():
            raise RuntimeError(
                f"[veneer] {listed(self.merged_adapters)} is merged into {self.path}, where training would "
                "not reach it: unmerge_adapter() first, or model.eval()"
            )

    def _linear(self, running: tuple[Adapter, ...], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.base_layer
        fused = not args and not kwargs and running[0].method.traits.runs_base and base.fused_refusal(layer) is None
        y = None
        if not fused or (len(running) > 1 and any(adapter.method.traits.changes_input for adapter in running)):
            inner = x
            for adapter in running:
                if adapter.method.traits.changes_input:
                    inner = adapter.method.input(inner, adapter.params(x.device))
            y = layer(inner, *args, **kwargs)
        for adapter in running:
            weight = bias = None
            if y is None or adapter.method.traits.needs_weight:
                weight, bias = base.dense_weight(layer), base.tensor(layer, "bias")
            y = adapter.forward(x, y, weight, bias, self.training)
        return y

    def _hidden(self, running: tuple[Adapter, ...], args: tuple, kwargs: dict) -> Any:
        if self.wiring == "output":
            out = self.base_layer(*args, **kwargs)
            z = state = out[0] if isinstance(out, tuple) else out
            for adapter in running:
                state = adapter.forward(z, state, None, None, self.training)
            return (state, *out[1:]) if isinstance(out, tuple) else state
        x = args[self.argument] if self.argument < len(args) else kwargs[self._argument_name]
        if self.wiring == "parallel":
            out = self.base_layer(*args, **kwargs)
            state = out[0] if isinstance(out, tuple) else out
            for adapter in running:
                state = adapter.forward(x, state, None, None, self.training)
            return (state, *out[1:]) if isinstance(out, tuple) else state
        z = self.base_layer(*args, **kwargs) if self.wiring == "norm" else x
        for adapter in running:
            x = adapter.forward(z, x, None, None, self.training)
        if self.argument < len(args):
            args = (*args[: self.argument], x, *args[self.argument + 1 :])
        else:
            kwargs = {**kwargs, self._argument_name: x}
        return self.base_layer(*args, **kwargs)

    # Weights --------------------------------------------------------------------------------------------------------

    def effective(self, adapters: list[Adapter]) -> dict[str, Tensor]:
        """The base's weight (as the base stores it) and bias with `adapters` in them; in float32 at least, cast once."""
        layer = self.base_layer
        weight, bias = base.dense_weight(layer), getattr(layer, "bias", None)
        wide = torch.promote_types(weight.dtype, torch.float32)
        w, b = weight.to(wide), None if bias is None else bias.to(wide)
        for adapter in adapters:
            params = adapter.params(w.device)
            b = None if b is None else adapter.method.bias(b, params)
            w = adapter.method.weight(w, params)
        w = w.to(weight.dtype)
        result = {"weight": w.t() if base.is_conv1d(layer) else w}
        if b is not None:
            result["bias"] = b.to(bias.dtype)
        return result

    def merge_refusal(self, names: list[str]) -> str | None:
        """Why `names` cannot be merged here, None where they can."""
        for name in names:
            traits = self.adapters[name].method.traits
            if not traits.mergeable:
                return f"{name} ({self.adapters[name].method.name}) at {self.path} cannot be merged: {traits.merge_refusal}"
        if base.dense_weight(self.base_layer) is None:
            return f"{self.path} ({type(self.base_layer).__name__}) has no plain dense weight to merge into"
        for name in ("weight", "bias"):  # parametrized, or set by a hook before each forward
            stored = name in self.base_layer._parameters or name in self.base_layer._buffers
            if not stored and getattr(self.base_layer, name, None) is not None:
                return f"{self.path} cannot be written to: its {name} is computed, not stored"
        return None

    @torch.no_grad()
    def merged(self, names: list[str], safe: bool) -> dict[str, Tensor]:
        """What `merge` writes for `names`; the caller has asked `merge_refusal`. `safe` refuses NaN and infinity."""
        tensors = self.effective([self.adapters[name] for name in names])
        for what, tensor in tensors.items() if safe else ():
            if not tensor.isfinite().all():
                raise ValueError(
                    f"[veneer] merging {listed(names)} into {self.path} gives a {what} with NaN or infinity"
                )
        return tensors

    @torch.no_grad()
    def merge(
        self, names: list[str], merged: dict[str, Tensor], keep_on: torch.device | str | None, keep: bool
    ) -> None:
        """Writes the `merged` tensors of `names` into the base. Keeps the old ones (on `keep_on`; None: where they are)
        for `unmerge`."""
        targets = {name: getattr(self.base_layer, name) for name in merged}
        if keep:
            self._kept = {name: t.detach().to(keep_on or t.device, copy=True) for name, t in targets.items()}
        for name, tensor in merged.items():
            targets[name].copy_(tensor)
        self.merged_adapters = names
        self._refresh()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the kept weight back, bit for bit."""
        for name, tensor in self._kept.items():
            getattr(self.base_layer, name).copy_(tensor)
        self._kept = {}
        self.merged_adapters = []
        self._refresh()

    def _check_read(self, name: str, method: BoundMethod) -> None:
        if self.read_by is None:
            return
        reader = "nn.MultiheadAttention" if self.read_by == "always" else "nn.TransformerEncoderLayer (in eval mode)"
        problem = None
        if self.wiring != "linear" or not method.traits.mergeable:
            problem = "a method without an effective weight would have no effect there"
        elif self.read_by == "always" and method.traits.dropout > 0.0:
            problem = "there is no input to drop; set the dropout to 0"
        if problem:
            raise ValueError(
                f"[veneer] {name} ({method.name}) cannot adapt {self.path}: {reader} reads its weight and never "
                f"calls it, and {problem}"
            )

    def _read(self, name: str) -> Tensor | None:
        self._refuse_training_merged()
        running = self._running
        dense = self.wiring == "linear" and base.dense_weight(self.base_layer) is not None
        if running and dense and all(adapter.method.traits.mergeable for adapter in running):
            return self.effective(list(running)).get(name)
        return getattr(self.base_layer, name)

    @property
    def weight(self) -> Tensor:
        """For a model that reads weights instead of calling layers: the effective one, with gradient, while adapters that
        have one act; else the base's."""
        return self._read("weight")

    @property
    def bias(self) -> Tensor | None:
        """The bias, effective where `weight` is."""
        return self._read("bias")

    # Being a module -------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if name in modules:  # the base, which each call asks for
            return modules[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "base_layer" not in modules or name.startswith(
                "__"
            ):  # not the base's __deepcopy__: it would copy the base alone
                raise
            return getattr(modules["base_layer"], name)  # what a model reads of its own layer

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """While merged: the unmerged weights, so that a saved state is the truth."""
        state = super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        for name, tensor in self._kept.items():
            state[f"{prefix}base_layer.{name}"] = tensor
        return state

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        if self.merged_adapters:
            raise RuntimeError(f"[veneer] {self.path} is merged: unmerge_adapter() before loading a state dict")
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedLayer:
        super()._apply(fn, recurse)
        # The kept weights follow the layer's dtype but stay on the device the user chose for them.
        self._kept = {name: t.to(getattr(self.base_layer, name).dtype) for name, t in self._kept.items()}
        return self

    def extra_repr(self) -> str:
        return f"wiring={self.wiring}, adapters={{{listed(f'{n}: {a.method.name}' for n, a in self.adapters.items())}}}, active={self.active}"
