# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The methods as users configure them, which the model suites walk. A new method is one more row of ROWS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import Any

import pytest
import torch
from models import MODELS, Model

import veneer


@dataclass(frozen=True)
class Row:
    """One method as users configure it. `kind`: how it composes (and whether it has a weight to merge into)."""

    name: str
    config: Callable[..., Any]
    kind: str  # "additive", "scaling", "exclusive" (DoRA), "hidden"
    options: dict[str, Any]
    dropout: str | None  # its field for dropout
    count: Callable[[Model], int]  # trained parameters, by the papers' formulas
    targets: str = "linear"

    @property
    def mergeable(self):
        return self.kind != "hidden"

    def make(self, model: Model, **changes):
        """The configuration for a model: its default targets, or the names our own model needs."""
        where = {}
        if model.targets and "target_modules" not in changes:
            where["target_modules"] = model.targets[self.targets]
            if self.targets == "ia3":
                where["feedforward_modules"] = model.targets["feedforward"]
        return self.config(**copy.deepcopy({**self.options, **where, **changes}))


def linear_count(per_site):
    return lambda model: sum(per_site(d_in, d_out) for d_in, d_out in model.query_value)


def bottleneck_count(placement, inner):
    def count(model):
        m = model.hidden // inner
        return model.hidden_sites[placement] * (2 * model.hidden * m + m + model.hidden)

    return count


def lokr_count(d_in, d_out, r=2):
    """LoKr's: the sizes' most square factors, and rank r where that is less than half of the larger ones."""

    def factors(n):
        small = next(k for k in range(int(n**0.5), 0, -1) if n % k == 0)
        return small, n // small

    (i1, i2), (o1, o2) = factors(d_in), factors(d_out)
    return i1 * o1 + (r * (i2 + o2) if r < max(i2, o2) / 2 else i2 * o2)


def train_count(d_in, d_out):
    """Of two trains of rank 2, [d_in, 4] and [4, d_out], with the modes that the sizes of our models have."""
    modes = {4: [4], 7: [7], 8: [8], 9: [9], 15: [15], 21: [21], 24: [4, 6], 72: [6, 12]}

    def train(n, first):
        inner = [*modes[n], 4] if first else [4, *reversed(modes[n])]
        ranks = [1, *[2] * (len(inner) - 1), 1]
        return sum(k * left * right for k, left, right in zip(inner, ranks, ranks[1:], strict=False))

    return train(d_in, True) + train(d_out, False)


RANK = 3
ROWS = {
    row.name: row
    for row in (
        Row(
            "lora",
            veneer.LoraConfig,
            "additive",
            {"r": RANK, "lora_alpha": 5},
            "lora_dropout",
            linear_count(lambda i, o: RANK * (i + o)),
        ),
        Row(
            "circulant", veneer.SurmConfig, "additive", {}, "dropout", linear_count(lambda i, o: 2 * i * o // gcd(i, o))
        ),
        Row(
            "dora",
            veneer.LoraConfig,
            "exclusive",
            {"r": RANK, "lora_alpha": 5, "use_dora": True},
            "lora_dropout",
            linear_count(lambda i, o: RANK * (i + o) + o),
        ),
        Row(
            "dora_circulant",
            veneer.SurmConfig,
            "exclusive",
            {"use_dora": True},
            "dropout",
            linear_count(lambda i, o: 2 * i * o // gcd(i, o) + o),
        ),
        Row(
            "ia3",
            veneer.IA3Config,
            "scaling",
            {},
            None,
            lambda model: sum(o for _, o in model.key_value) + sum(i for i, _ in model.feedforward),
            "ia3",
        ),
        Row("vera", veneer.VeraConfig, "additive", {"r": 5}, "vera_dropout", linear_count(lambda i, o: o + 5)),
        Row(
            "dense", veneer.AdditiveConfig, "additive", {"matrix": "dense"}, "dropout", linear_count(lambda i, o: i * o)
        ),
        Row("lokr", veneer.LoKrConfig, "additive", {"r": 2, "alpha": 3}, None, linear_count(lokr_count)),
        Row(
            "more",
            veneer.MoreConfig,
            "additive",
            {"nblocks": 2, "blk_r": 3},
            "dropout",
            linear_count(lambda i, o: 6 * (-(-i // 2) - (-o // 2))),
        ),
        Row(
            "loretta",
            veneer.LorettaConfig,
            "additive",
            {"r": 4, "tensor_rank": 2},
            "dropout",
            linear_count(train_count),
        ),
        Row(
            "compacter",
            veneer.CompacterConfig,
            "hidden",
            {"bottleneck_size": 2, "phm_dim": 1},
            "dropout",
            lambda model: model.hidden_sites["houlsby"] * (2 * (model.hidden + 2) + model.hidden + 2) + 1,
            "houlsby",
        ),
        Row(
            "surm_adapter",
            veneer.SurmAdapterConfig,
            "hidden",
            {"structure": "symmetric_toeplitz"},
            "dropout",
            lambda model: model.hidden_sites["houlsby"] * 3 * model.hidden,
            "houlsby",
        ),
        *(
            Row(
                placement,
                veneer.BottleneckConfig,
                "hidden",
                {"placement": placement, "reduction_factor": 3},
                "dropout",
                bottleneck_count(placement, 3),
                placement,
            )
            for placement in ("houlsby", "pfeiffer", "parallel")
        ),
    )
}

EACH_ROW = [pytest.param(row, id=row.name) for row in ROWS.values()]
MERGEABLE = [pytest.param(row, id=row.name) for row in ROWS.values() if row.mergeable]
EVERY = [pytest.param(model, row, id=f"{model.name}-{row.name}") for model in MODELS.values() for row in ROWS.values()]


def adapt(model: Model, row: Row, dtype=torch.float32, **changes):
    """The base with one adapter of the row, always with the same start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return veneer.get_peft_model(model.build(dtype), row.make(model, **changes))
