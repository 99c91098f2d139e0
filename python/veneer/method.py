# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the host runs at a site: a method of the core, reached through the generic op, or one written in Python, which the
host calls directly so that Dynamo traces its body."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from veneer import _core
from veneer.names import listed, suggestion

BUILD = _core.build_id()
ops = torch.ops.veneer


@dataclass(frozen=True)
class Initial:
    """Shape and start of one parameter of a Python method."""

    shape: tuple[int, ...]
    kind: str
    a: float = 0.0
    b: float = 0.0
    trainable: bool = True


def constant(value: float, *shape: int, trainable: bool = True) -> Initial:
    """Every element `value`."""
    return Initial(shape, "constant", value, trainable=trainable)


def zeros(*shape: int, trainable: bool = True) -> Initial:
    """Zeros."""
    return constant(0.0, *shape, trainable=trainable)


def ones(*shape: int, trainable: bool = True) -> Initial:
    """Ones."""
    return constant(1.0, *shape, trainable=trainable)


def normal(std: float, *shape: int, mean: float = 0.0, trainable: bool = True) -> Initial:
    """N(mean, std^2)."""
    return Initial(shape, "normal", mean, std, trainable)


def uniform(bound: float, *shape: int, trainable: bool = True) -> Initial:
    """U(-bound, bound)."""
    return Initial(shape, "uniform", -bound, bound, trainable)


class Method:
    """A method written in Python: subclass, give `parameters` and `weight` (mergeable) and/or `forward`, and register with
    `@veneer.method("name")`. Annotated class attributes are its options::

        @veneer.method("scale_columns")
        class ScaleColumns(veneer.Method):
            def parameters(self, d_out, d_in): return {"s": veneer.ones(d_in)}
            def weight(self, W, p): return W * p["s"]

    Used with `MethodConfig(method="scale_columns", options={...}, target_modules=[...])`.
    """

    composition: ClassVar[str] = "exclusive"  # "additive": sums with others; "scaling": multiplies with others
    sites: ClassVar[tuple[str, ...]] = ("linear",)  # "linear", "hidden" or both

    def parameters(self, d_out: int, d_in: int) -> dict[str, Initial]:
        """The tensors of one layer by name. Names have no dots."""
        raise NotImplementedError(f"[{type(self).__name__}] expected a method `parameters(d_out, d_in)`")

    def weight(self, W: Tensor, p: dict[str, Tensor]) -> Tensor:
        """The effective weight [d_out, d_in]. Leave out where there is none: then the method cannot be merged."""
        raise NotImplementedError(f"[{type(self).__name__}] has neither `weight` nor `forward`")

    def bias(self, b: Tensor, p: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """The effective bias [d_out]; only called where the base has one."""
        return b

    def forward(self, x: Tensor, y: Tensor, W: Tensor | None, b: Tensor | None, p: dict[str, Tensor]) -> Tensor:  # noqa: ARG002
        """The layer's output [*, d_out] from its input x [*, d_in] and the base's output y. Without it, the host runs a
        linear with `weight` and `bias`."""
        return F.linear(x, self.weight(W, p), None if b is None else self.bias(b, p))


_methods: dict[str, type[Method]] = {}


def method(name: str):
    """Registers a `Method` subclass under a name. The core's names are taken; a name may be registered anew (a notebook
    cell run twice), which replaces it for adapters made from then on."""
    taken = json.loads(_core.registry())["methods"]
    if name in taken:
        raise ValueError(f"[veneer.method] `{name}` is a method of the core; choose another name")

    def register(cls: type[Method]) -> type[Method]:
        if not (inspect.isclass(cls) and issubclass(cls, Method)):
            raise TypeError(f"[veneer.method] expected a subclass of veneer.Method, got {cls!r}")
        _methods[name] = cls
        return cls

    return register


@dataclass
class Spec:
    """One tensor of an adapter. `key`: its name in checkpoints, with `{adapter}` where state dicts have the name."""

    name: str
    shape: list[int]
    key: str
    trainable: bool = True
    saved: bool = True


@dataclass
class Traits:
    """What the host must know of a bound method."""

    mergeable: bool
    merge_refusal: str = "it has no effective weight"
    changes_input: bool = False
    composition: str = "exclusive"
    needs_weight: bool = False
    runs_base: bool = True  # forward may be given no base output, and runs the base's product itself
    dropout: float = 0.0


@dataclass
class CoreMethod:
    """A method of the core, bound to a site. `plan` is the core's canonical text of its options and sizes."""

    name: str
    plan: str
    own: list[Spec]
    traits: Traits

    def start(
        self, weight: Tensor | None, shared: list[Tensor], dtype: torch.dtype, device: torch.device
    ) -> list[Tensor]:
        """Fresh tensors, in the order of `own`."""
        return ops.initial_parameters(self.name, self.plan, weight, shared, dtype, device, BUILD)

    def forward(self, x, y, weight, bias, params, seed):
        return ops.forward.default(self.name, self.plan, x, y, weight, bias, params, seed, BUILD)

    def input(self, x, params):
        return ops.forward_input(self.name, self.plan, x, params, BUILD)

    def weight(self, weight, params):
        return ops.merged_weight(self.name, self.plan, weight, params, BUILD)

    def bias(self, bias, params):
        return ops.merged_bias(self.name, self.plan, bias, params, BUILD)


@dataclass
class PythonMethod:
    """A method written in Python, bound to a site."""

    name: str
    options: dict[str, Any]
    site: dict[str, Any]
    own: list[Spec] = field(default_factory=list)
    traits: Traits = field(default_factory=lambda: Traits(mergeable=False))

    def __post_init__(self) -> None:
        cls = _methods[self.name]
        if self.site["kind"] not in cls.sites:
            raise ValueError(
                f"[{self.name}] works at sites: {', '.join(cls.sites)}; got a {self.site['kind']} site at {self.site['path']}"
            )
        known = {name for base in cls.__mro__[:-2] for name in vars(base).get("__annotations__", {})}
        for name in self.options:
            if name not in known:
                raise ValueError(
                    f"[{self.name}] unknown option `{name}`; known: {listed(sorted(known))}{suggestion(name, known)}"
                )
        has_weight = cls.weight is not Method.weight
        self.traits = Traits(
            mergeable=has_weight and self.site["kind"] == "linear",
            composition=cls.composition,
            needs_weight=self.site["kind"] == "linear",
            runs_base=False,
        )
        if not has_weight and cls.forward is Method.forward:
            raise TypeError(f"[{self.name}] expected a `weight` or a `forward`, got neither")
        if has_weight and cls.forward is Method.forward and not self.site["has_weight"]:
            raise ValueError(
                f"[{self.name}] needs the base's dense weight, which cannot be reached at {self.site['path']}"
            )
        for name in self._initials():
            if "." in name:
                raise ValueError(f"[{self.name}] a parameter's name must have no dots, got `{name}`")
        self.own = [
            Spec(name, list(initial.shape), f"{self.name}_{name}.{{adapter}}", initial.trainable)
            for name, initial in self._initials().items()
        ]

    def _instance(self) -> Method:
        instance = _methods[self.name]()
        for name, value in self.options.items():
            setattr(instance, name, value)
        return instance

    def _initials(self) -> dict[str, Initial]:
        return self._instance().parameters(self.site["d_out"], self.site["d_in"])

    def _named(self, params: list[Tensor]) -> dict[str, Tensor]:
        return {spec.name: tensor for spec, tensor in zip(self.own, params, strict=True)}

    def start(
        self,
        weight: Tensor | None,  # noqa: ARG002
        shared: list[Tensor],  # noqa: ARG002
        dtype: torch.dtype,
        device: torch.device,
    ) -> list[Tensor]:
        fills = {
            "constant": lambda t, i: t.fill_(i.a),
            "normal": lambda t, i: t.normal_(i.a, i.b),
            "uniform": lambda t, i: t.uniform_(i.a, i.b),
        }
        tensors = []
        for initial in self._initials().values():
            if device.type == "meta":
                tensors.append(torch.empty(initial.shape, dtype=dtype, device=device))
            else:  # drawn on the CPU in float32, as the core does: the same numbers on every device
                tensors.append(fills[initial.kind](torch.empty(initial.shape), initial).to(dtype=dtype, device=device))
        return tensors

    def forward(self, x, y, weight, bias, params, seed):  # noqa: ARG002
        return self._instance().forward(x, y, weight, bias, self._named(params))

    def input(self, x, params):  # noqa: ARG002
        return x

    def weight(self, weight, params):
        return self._instance().weight(weight, self._named(params))

    def bias(self, bias, params):
        return self._instance().bias(bias, self._named(params))


BoundMethod = CoreMethod | PythonMethod


def bind(config: dict[str, Any], sites: list[dict[str, Any]]) -> tuple[list[BoundMethod], list[dict[str, Any]]]:
    """The methods of a configuration at all sites of one adapter, and the specs (as the core writes them) of the tensors
    they share."""
    if config["peft_type"] == "METHOD" and config.get("method") in _methods:
        return [PythonMethod(config["method"], config.get("options") or {}, site) for site in sites], []
    if config["peft_type"] == "METHOD":
        known = [*json.loads(_core.registry())["methods"], *_methods]
        if config.get("method") not in known:
            name = config.get("method")
            raise ValueError(
                f"[MethodConfig] unknown method `{name}`; known: {listed(known)}{suggestion(str(name), known)}"
            )
    bound = json.loads(_core.bind_config(json.dumps(config), [json.dumps(site) for site in sites]))
    methods: list[BoundMethod] = []
    for site in bound["sites"]:
        own = [Spec(s["name"], s["shape"], s["key"], s["trainable"], s["saved"]) for s in site["own"]]
        traits = Traits(
            **{
                key: site[key]
                for key in ("mergeable", "merge_refusal", "changes_input", "composition", "needs_weight", "dropout")
            }
        )
        methods.append(CoreMethod(site["method"], site["plan"], own, traits))
    return methods, bound["shared"]
