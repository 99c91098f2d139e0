# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What one would write by hand: plain PyTorch modules for the methods, used as a contender, and in float64 as the
oracle. A matrix or method without a formula here is built from its effective weight, so new ones are compared as
well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from veneer import base
from veneer.adapted import AdaptedLayer, Adapter
from veneer.config import CONFIG_CLASSES
from veneer.method import BoundMethod, bind

Params = dict[str, Tensor]


def _low_rank(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:  # noqa: ARG001
    rank = options["rank"]
    scale = (options["alpha"] or rank) / (rank**0.5 if options["rank_stabilized"] else rank)
    return F.linear(F.linear(x, p["lora_A"]), p["lora_B"]) * scale


def _circulant(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:
    c = p["circulant_a"] * p["circulant_b"] if options["form"] == "product" else p["circulant_c"]
    c = c.reshape(1, 1, -1) if c.dim() == 1 else c  # [m, q, g]
    q, g = c.shape[1:]
    wide = torch.promote_types(x.dtype, torch.float32)  # there is no bfloat16 FFT
    signal = torch.fft.rfft(F.pad(x.to(wide), (0, q * g - x.shape[-1])).unflatten(-1, (q, g)))
    spectrum = torch.fft.rfft(c.to(wide))
    mixed = signal * spectrum[:, 0] if q == 1 else torch.einsum("...qk,mqk->...mk", signal, spectrum)
    return torch.fft.irfft(mixed, g).flatten(-2)[..., :d_out].to(x.dtype)


def _block_circulant(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:
    kappa = x.shape[-1] if options["normalization"] == "input_size" else 1
    columns = p["c3a_kernel"].flip(-1).roll(1, -1) / kappa
    return _circulant(x, {"circulant_c": columns}, {"form": "single"}, d_out)


def _lokr(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:  # noqa: ARG001
    w1, w2 = (p[w] if w in p else p[w + "_a"] @ p[w + "_b"] for w in ("lokr_w1", "lokr_w2"))
    blocks = x.unflatten(-1, (w1.shape[1], w2.shape[1])) @ w2.T  # [N, i1, o2]
    scale = (options["alpha"] or options["rank"]) / options["rank"]
    return torch.einsum("oi,...ij->...oj", w1, blocks).flatten(-2) * scale


def _vera(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:  # noqa: ARG001
    h = F.linear(x, p["vera_A"][:, : x.shape[-1]]) * p["vera_lambda_d"]
    return F.linear(h, p["vera_B"][:d_out]) * p["vera_lambda_b"]


def _dense(x: Tensor, p: Params, options: dict[str, Any], d_out: int) -> Tensor:  # noqa: ARG001
    return F.linear(x, p["weight"])


# M x, with the matrix's own scale; x in the parameters' dtype.
APPLY: dict[str, Callable[[Tensor, Params, dict[str, Any], int], Tensor]] = {
    "low_rank": _low_rank,
    "circulant": _circulant,
    "block_circulant": _block_circulant,
    "lokr": _lokr,
    "vera": _vera,
    "dense": _dense,
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Matrix:
    """A structured matrix in plain PyTorch. Without a formula of its own: its dense form, and a product with that."""

    def __init__(self, name: str, options: dict[str, Any], d_in: int, d_out: int) -> None:
        self.name, self.options, self.d_in, self.d_out = name, options, d_in, d_out
        config = {"method": "additive", "options": {"matrix": {"name": name, **options}}}
        site = {
            "kind": "linear",
            "d_in": d_in,
            "d_out": d_out,
            "has_weight": True,
            "has_bias": False,
            "path": "lin",
            "layer": -1,
            "role": "",
        }
        methods, _ = bind(CONFIG_CLASSES["METHOD"](**config, target_modules=["lin"]).to_dict(), [site])
        self._additive = methods[0]
        self._names = parameter_names(self._additive)

    def dense(self, p: Params) -> Tensor:
        """[d_out, d_in], scaled."""
        params = [p[name] for name in self._names]
        return self._additive.weight(params[0].new_zeros(self.d_out, self.d_in), params)

    def apply(self, x: Tensor, p: Params) -> Tensor:
        if self.name in APPLY:
            return APPLY[self.name](x, p, self.options, self.d_out)
        return F.linear(x, self.dense(p))


def parameter_names(method: BoundMethod) -> list[str]:
    """Names of a bound method's tensors in the order it takes them."""
    return [spec.name for spec in method.own] + [
        spec["name"] for spec in (json.loads(method.plan)["shared"] if hasattr(method, "plan") else [])
    ]


class PlainLayer(nn.Module):
    """Base of the hand-written layers: a frozen base layer and tensors by name."""

    def __init__(self, base_layer: nn.Module, adapter: Adapter, d_in: int, d_out: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.method = adapter.method
        self.options = json.loads(adapter.method.plan)["options"] if hasattr(adapter.method, "plan") else {}
        self.names = parameter_names(adapter.method)
        self.tensors = nn.ParameterList(
            nn.Parameter(t.detach().clone(), requires_grad=isinstance(t, nn.Parameter)) for t in adapter.params()
        )
        self.dropout = nn.Dropout(adapter.method.traits.dropout)
        self.d_in, self.d_out = d_in, d_out
        self.prepare()

    def prepare(self) -> None:
        """What a kind of layer makes once."""

    def params(self) -> Params:
        return dict(zip(self.names, self.tensors, strict=True))

    def matrix(self, slot: str, d_in: int, d_out: int) -> Matrix:
        value = self.options[slot]
        name, options = (
            (value, {}) if isinstance(value, str) else (value["name"], {k: v for k, v in value.items() if k != "name"})
        )
        return Matrix(name, options, d_in, d_out)

    @property
    def weight(self) -> Tensor:
        return base.dense_weight(self.base_layer)


class PlainAdditive(PlainLayer):
    """y = W x + b + s * M dropout(x)."""

    def prepare(self) -> None:
        self.M = self.matrix("matrix", self.d_in, self.d_out)

    def update(self, x: Tensor, p: Params) -> Tensor:
        """s * M x in the parameters' dtype."""
        out = self.M.apply(x.to(self.tensors[0].dtype), p)
        return out if self.options["scale"] == 1.0 else self.options["scale"] * out

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.update(self.dropout(x), self.params()).to(y.dtype)


class PlainDecomposed(PlainAdditive):
    """DoRA: y = g * (W + s M) x + b, g = m / ||W + s M||, the norm taken without gradient; with dropout, HF PEFT's
    reading."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.params()
        with torch.no_grad():
            norm = (self.weight + self.options["scale"] * self.M.dense(p).to(self.weight.dtype)).norm(dim=1)
        g = p["magnitude"] / norm
        if not self.training or self.dropout.p == 0.0 or self.options["dora_dropout"] == "shared":
            y = F.linear(x, self.weight)
            return (g * (y + self.update(self.dropout(x), p).to(y.dtype))).to(y.dtype) + self.base_layer.bias
        y = self.base_layer(x)
        dropped = self.dropout(x)
        return y + ((g - 1) * F.linear(dropped, self.weight) + g * self.update(dropped, p)).to(y.dtype)


class PlainIa3(PlainLayer):
    """y = l * (W x + b), or W (l * x) + b."""

    def forward(self, x: Tensor) -> Tensor:
        l = self.tensors[0].flatten()
        if self.options["position"] == "input":
            return self.base_layer((x * l).to(x.dtype))
        y = self.base_layer(x)
        return (y * l).to(y.dtype)


class PlainHidden(PlainLayer):
    """u + s * update(u) after the base, the first part of whose output is u."""

    def update(self, u: Tensor, p: Params) -> Tensor:
        """[*, d] -> [*, d] in the parameters' dtype, which u is in."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.base_layer(*args, **kwargs)
        u = out[0] if isinstance(out, tuple) else out
        h = self.update(self.dropout(u).to(self.tensors[0].dtype), self.params())
        y = u + (h if self.options["scale"] == 1.0 else self.options["scale"] * h).to(u.dtype)
        return (y, *out[1:]) if isinstance(out, tuple) else y


class PlainBottleneck(PlainHidden):
    """up(act(down(u)))."""

    def prepare(self) -> None:
        size = self.options["size"] or max(1, int(self.d_in / self.options["reduction_factor"]))
        self.down, self.up = self.matrix("down", self.d_in, size), self.matrix("up", size, self.d_out)

    def update(self, u: Tensor, p: Params) -> Tensor:
        common = {name: t for name, t in p.items() if not name.startswith(("down_", "up_"))}  # Compacter's rule
        part = {
            half: common | {name[len(half) + 1 :]: t for name, t in p.items() if name.startswith(half + "_")}
            for half in ("down", "up")
        }
        h = self.down.apply(u, part["down"])
        h = ACTIVATIONS[self.options["activation"]](h + part["down"]["bias"] if self.options["bias"] else h)
        h = self.up.apply(h, part["up"])
        return h + part["up"]["bias"] if self.options["bias"] else h


class PlainSurmAdapter(PlainHidden):
    """act(M u) + b."""

    def prepare(self) -> None:
        self.M = self.matrix("matrix", self.d_in, self.d_out)

    def update(self, u: Tensor, p: Params) -> Tensor:
        p = {name.removeprefix("adapter_"): t for name, t in p.items()}
        h = ACTIVATIONS[self.options["activation"]](self.M.apply(u, p))
        return h + p["bias"] if self.options["bias"] else h


class PlainEffective(PlainLayer):
    """Any method that has an effective weight: a linear layer with that weight and bias."""

    def forward(self, x: Tensor) -> Tensor:
        params, weight = list(self.tensors), self.weight
        bias = getattr(self.base_layer, "bias", None)
        return F.linear(x, self.method.weight(weight, params), None if bias is None else self.method.bias(bias, params))


def dense_layer(layer: AdaptedLayer, base_layer: nn.Module) -> PlainLayer | None:
    """A linear layer with the effective weight: the update becomes a dense matrix once a step, and there is one
    product."""
    adapter = next(iter(layer.adapters.values()))
    if layer.wiring != "linear" or not adapter.method.traits.mergeable:
        return None
    return PlainEffective(base_layer, adapter, *base.sizes(layer.base_layer))


def plain_layer(layer: AdaptedLayer, base_layer: nn.Module) -> PlainLayer | None:
    """The hand-written twin of an adapted layer around `base_layer`, with equal parameters; None where there is
    none."""
    adapter = next(iter(layer.adapters.values()))
    method = adapter.method
    d_in, d_out = (layer.size, layer.size) if layer.wiring != "linear" else base.sizes(layer.base_layer)
    kind: type[PlainLayer] | None = None
    if method.name == "bottleneck" and layer.wiring == "output":
        kind = PlainBottleneck
    elif method.name == "surm_adapter" and layer.wiring == "output":
        kind = PlainSurmAdapter
    elif layer.wiring == "linear" and method.name == "additive":
        kind = PlainDecomposed if json.loads(method.plan)["options"]["decompose"] else PlainAdditive
    elif layer.wiring == "linear" and method.name == "ia3":
        kind = PlainIa3
    elif layer.wiring == "linear" and method.traits.mergeable and method.traits.dropout == 0.0:
        kind = PlainEffective
    return kind and kind(base_layer, adapter, d_in, d_out)
