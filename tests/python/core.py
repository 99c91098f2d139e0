# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the generic suites share: the case table, and the core driven directly through its ops."""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from scipy.special import erf

from veneer import _core

CASES = json.loads((Path(__file__).parents[1] / "cases.json").read_text())
REGISTRY = json.loads(_core.registry())
CPU = torch.device("cpu")
ops = torch.ops.veneer


@dataclass
class Bound:
    """One method bound to one site, with random parameters (a zero factor would hide errors). `own`: the trained ones."""

    method: str
    plan: str
    traits: dict
    names: list[str]
    params: list[torch.Tensor]

    @classmethod
    def make(
        cls,
        method,
        options,
        d_in,
        d_out,
        *,
        kind="linear",
        bias=True,
        dtype=torch.float64,
        fresh=False,
        weight=None,
        device=CPU,
    ):
        site = {"kind": kind, "d_in": d_in, "d_out": d_out, "has_bias": bias}
        bound = json.loads(_core.bind(method, [json.dumps(options)], [json.dumps(site)]))
        traits = bound["sites"][0]
        shared = ops.initial_shared(json.dumps(bound["shared"]), dtype, device)
        own = ops.initial_parameters(method, traits["plan"], weight, shared, dtype, device, _core.build_id())
        specs = traits["own"] + bound["shared"]
        params = [p.requires_grad_(spec["trainable"]) for p, spec in zip([*own, *shared], specs, strict=True)]
        if not fresh:
            random = [torch.randn_like(p) / math.sqrt(max(d_in, 1)) for p in params]
            params = [r.requires_grad_() if p.requires_grad else p for r, p in zip(random, params, strict=True)]
        return cls(method, traits["plan"], traits, [spec["name"] for spec in specs], params)

    @property
    def own(self):
        return [p for p in self.params if p.requires_grad]

    def with_params(self, params):
        """The same with other trained tensors."""
        left = iter(params)
        params = [next(left) if p.requires_grad else p for p in self.params]
        return Bound(self.method, self.plan, self.traits, self.names, params)

    def to(self, dtype=None, device=None):
        """The same in another precision, or on another device."""
        return Bound(
            self.method,
            self.plan,
            self.traits,
            self.names,
            [p.detach().to(device=device, dtype=dtype).requires_grad_(p.requires_grad) for p in self.params],
        )

    def __call__(self, x, y=None, weight=None, bias=None, seed=None):
        return ops.forward(self.method, self.plan, x, y, weight, bias, self.params, seed, _core.build_id())

    def input(self, x):
        return ops.forward_input(self.method, self.plan, x, self.params, _core.build_id())

    def weight(self, weight):
        return ops.merged_weight(self.method, self.plan, weight, self.params, _core.build_id())

    def bias(self, bias):
        return ops.merged_bias(self.method, self.plan, bias, self.params, _core.build_id())

    def numpy(self):
        return {name: p.detach().double().cpu().numpy() for name, p in zip(self.names, self.params, strict=True)}


def blocks(entry, c):
    """Dense [m * g, q * g] matrix whose block (i, j) has entry(c[i, j], u, v, g) at (u, v)."""
    c = c.reshape((1, 1, -1)) if c.ndim == 1 else c
    m, q, g = c.shape
    return np.block(
        [
            [np.array([[entry(c[i, j], u, v, g) for v in range(g)] for u in range(g)]) for j in range(q)]
            for i in range(m)
        ]
    )


ACTIVATIONS = {
    "gelu": lambda h: 0.5 * h * (1 + erf(h / math.sqrt(2))),
    "gelu_tanh": lambda h: 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
    "relu": lambda h: np.maximum(h, 0),
    "silu": lambda h: h / (1 + np.exp(-h)),
    "tanh": np.tanh,
}


def entries(rows, columns, f):
    """Dense matrix with f(i, j) at (i, j)."""
    return np.array([[f(i, j) for j in range(columns)] for i in range(rows)]).reshape(rows, columns)


def symmetric(t):
    """The symmetric Toeplitz matrix of t."""
    return entries(len(t), len(t), lambda i, j: t[abs(i - j)])


def shifts(v, corner):
    """Z_corner(v): columns v, Z v, Z^2 v, ..., Z the down-shift with `corner` in its corner."""
    return entries(len(v), len(v), lambda i, j: v[i - j] if i >= j else corner * v[i - j + len(v)])


def krylov(a, v):
    """[v, a v, a^2 v, ...]"""
    return np.stack([np.linalg.matrix_power(a, k) @ v for k in range(len(v))], axis=1)


HELPERS = {f.__name__: f for f in (blocks, entries, symmetric, shifts, krylov)}


def formula(text, **names):
    """Evaluates a row's formula, written from the paper in plain numpy, which shares no code with the library."""
    return eval(text, {"np": np, "scipy": scipy, "functools": functools, **HELPERS, **names})


def matrix_formula(matrix, params, d_in, d_out):
    """A structured matrix (a name, or an object with its options) by its row's formula, times its own scale."""
    matrix = {"name": matrix} if isinstance(matrix, str) else matrix
    row = CASES["matrices"][matrix["name"]]
    defaults = {o["name"]: o["default"] for o in REGISTRY["matrices"][matrix["name"]]["options"]}
    names = {**defaults, **matrix, **params, "params": params, "d_in": d_in, "d_out": d_out}
    dense = formula(row["dense"], **names)[:d_out, :d_in]  # padding is cut off
    return dense * formula(row.get("scale", "1"), **names)


def starts_at_base(row, options):
    """Whether a case starts at the base model; a row says with which options it does not."""
    given = row.get("start", {})
    return not given or any(options.get(name) != value for name, value in given.items())
