# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What is measured. The methods come from the registry, so a new matrix, method or configuration is swept without an
edit; the tables here only choose sensible options for the known ones, and the sizes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from veneer import _core
from veneer.config import CONFIG_CLASSES, PeftConfig
from veneer.method import bind
from veneer.names import listed, suggestion

# Configuration type -> (name, fields); a type that is not here gets one row with its defaults.
CONFIG_ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "LORA": [
        ("lora-r8", {"r": 8, "lora_alpha": 16}),
        ("lora-r64", {"r": 64, "lora_alpha": 128}),
        ("dora-r8", {"r": 8, "lora_alpha": 16, "use_dora": True}),
    ],
    "SURM": [
        ("circulant-single", {"form": "single"}),
        ("circulant-product", {"form": "product"}),
        *((f"surm-{name}", {"structure": name}) for name in ("symmetric_toeplitz", "toeplitz", "kronecker", "ldr")),
        ("symmetric_toeplitz-single", {"structure": "symmetric_toeplitz", "form": "single"}),
    ],
    "VERA": [("vera-r256", {"r": 256})],
    "LOKR": [("lokr-r8", {"r": 8, "alpha": 16})],
    "C3A": [("c3a-b64", {"block_size": 64})],
    "LORETTA": [("loretta-rep", {}), ("loretta-adp", {"mode": "adp", "placement": "houlsby"})],
    "COMPACTER": [("compacter", {"bottleneck_size": 24})],
    "LORTA": [],  # its layers have to be attention projections: the matrix row says which
    "ADDITIVE": [],  # its cells are the matrix rows below
    "METHOD": [],
}

# Variants that the sweeps leave out: those of the GPU's targets (bench/targets.py).
GPU_ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("lora-r16", "LORA", {"r": 16, "lora_alpha": 32}),
    ("lora-r4", "LORA", {"r": 4, "lora_alpha": 8}),  # no multiple of eight: zeros go with it
    ("dora-r16", "LORA", {"r": 16, "lora_alpha": 32, "use_dora": True}),
    ("bottleneck-r64", "BOTTLENECK", {"bottleneck_size": 64}),
]

# Matrix -> (name, options), for the rows {method} x {matrix}; a matrix that is not here gets one row with its defaults.
MATRIX_ROWS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "low_rank": [("low_rank", {"rank": 8, "alpha": 16})],
    "circulant": [("circulant", {"form": "single"})],
    "vera": [("vera", {"rank": 64})],
    "cp": [("cp", {"rank": 4, "heads": 4, "role": "q", "layer": 0})],
    "tensor_train": [("tensor_train", {"rank": 8, "layout": "block"}), ("tensor_train-matrix", {"rank": 8})],
    "sum": [("sum", {"terms": [{"name": "low_rank", "rank": 8}, "diagonal"]})],
}

# Matrix -> where it can be in a model; others, at each of `PLACES`.
MATRIX_PLACES = {"cp": ["qv"]}  # one tensor for all layers, so these have one size
PLACES = ["qv", "all"]

SHAPES = [(768, 768, 2048), (768, 3072, 2048), (1024, 1024, 2048), (4096, 4096, 1024)]  # d_in, d_out, tokens
SMALL = (64, 64, 16)  # fp32 only: with so little arithmetic the time is that of calls, as small models' on a GPU
WIDTHS = [256, 2048]  # fp32 only, for the plot of time against width
TOKENS = [64, 256, 1024, 8192]  # at 768 -> 768, fp32 only, for the plot of time against tokens
QUICK_SHAPE = (256, 256, 256)
DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]  # base, adapter
MODEL_DTYPES = [("float32", "float32"), ("bfloat16", "float32")]  # the adapter's is HF PEFT's default
MODELS = ["minilm", "gpt2-small", "vit-b"]
DROPOUT = 0.1


@dataclass(frozen=True)
class Variant:
    """One configuration of a method. `kind`: the site it attaches to, "linear" or "hidden"."""

    name: str
    config: str
    fields: dict[str, Any] = field(hash=False)
    kind: str = "linear"
    method: str = ""
    matrix: str = ""

    def dropout_field(self) -> str | None:
        """The configuration's field for the probability of dropout, None where it has none."""
        if self.config == "METHOD":
            options = json.loads(_core.registry())["methods"][self.method]["options"]
            return "dropout" if any(o["name"] == "dropout" for o in options) else None
        fields = json.loads(_core.registry())["configs"][self.config]["fields"]
        return next((f["name"] for f in fields if f["name"].endswith("dropout") and f["type"] == "number"), None)

    def make(self, targets: Any, dropout: float = 0.0, **common: Any) -> PeftConfig:
        """The configuration for some modules."""
        fields = dict(self.fields)
        name = self.dropout_field()
        if dropout and name is None:
            raise ValueError(f"[bench] {self.name} has no dropout")
        if dropout and self.config == "METHOD":
            fields["options"] = {**fields["options"], name: dropout}
        elif dropout:
            fields[name] = dropout
        return CONFIG_CLASSES[self.config](**fields, target_modules=targets, **common)


@dataclass(frozen=True)
class Case:
    """One run: a variant, where it is applied, and the precision. Sizes of a layer, or a model's name and targets."""

    variant: Variant
    dtype: str = "float32"
    adapter_dtype: str = "float32"
    dropout: float = 0.0
    d_in: int = 0
    d_out: int = 0
    tokens: int = 0
    model: str = ""
    targets: str = ""

    @property
    def level(self) -> str:
        return "model" if self.model else "layer"

    @property
    def id(self) -> str:
        """A stable name: what `--filter` matches and what joins the rows of two runs."""
        dtype = self.dtype if self.dtype == self.adapter_dtype else f"{self.dtype}-{self.adapter_dtype}"
        tail = f"{dtype}/p{self.dropout:g}"
        if self.model:
            return f"model/{self.model}/{self.targets}/{self.variant.name}/{tail}"
        return f"layer/{self.variant.name}/{self.d_in}x{self.d_out}/N{self.tokens}/{tail}"


def _bound(config: str, fields: dict[str, Any]) -> tuple[str, str, str] | None:
    """(kind of site, method, its matrix if it has one) of a configuration; None where it cannot be bound as it is."""
    for kind in ("linear", "hidden"):
        site = {
            "kind": kind,
            "d_in": 768,
            "d_out": 768,
            "has_weight": kind == "linear",
            "has_bias": kind == "linear",
            "path": "lin",
            "layer": -1,
            "role": "lin",
        }
        try:
            methods, _ = bind(CONFIG_CLASSES[config](**fields, target_modules=["lin"]).to_dict(), [site])
        except (ValueError, RuntimeError):
            continue
        options = json.loads(methods[0].plan)["options"]
        matrices = [options[slot] for slot in _matrix_slots(methods[0].name)]
        names = {m["name"] if isinstance(m, dict) else m for m in matrices}
        return kind, methods[0].name, names.pop() if len(names) == 1 else ""
    return None


def _matrix_slots(method: str) -> list[str]:
    return [o["name"] for o in json.loads(_core.registry())["methods"][method]["options"] if o["type"] == "matrix"]


@functools.cache
def variants() -> tuple[Variant, ...]:
    """Every configuration type, then every cell {method} x {matrix} that none of them covers."""
    registry = json.loads(_core.registry())
    found: list[Variant] = []
    for config in registry["configs"]:
        for name, fields in CONFIG_ROWS.get(config, [(config.lower(), {})]):
            # One that needs more than its defaults is an error of its cases, not of the suite.
            found.append(Variant(name, config, fields, *(_bound(config, fields) or ("linear", "", ""))))
    covered = {(variant.method, variant.matrix) for variant in found}
    for method in registry["methods"]:
        slots = _matrix_slots(method)
        for matrix in registry["matrices"] if slots else [""]:
            if (method, matrix) in covered:
                continue
            for row, options in MATRIX_ROWS.get(matrix, [(matrix, {})]):
                name = row if method == "additive" else f"{method}-{row}".rstrip("-")
                fields = {"method": method, "options": {slot: {"name": matrix, **options} for slot in slots}}
                found.append(Variant(name, "METHOD", fields, *(_bound("METHOD", fields) or ("linear", method, matrix))))
    return tuple(found)


def variant(name: str) -> Variant:
    """One of `variants()`, or of the GPU's own, by its name."""
    return next(v for v in (*variants(), *_gpu_variants()) if v.name == name)


@functools.cache
def _gpu_variants() -> tuple[Variant, ...]:
    return tuple(Variant(name, config, fields, *_bound(config, fields)) for name, config, fields in GPU_ROWS)


def _layer_cases(quick: bool) -> Iterator[Case]:
    for v in variants():
        drops = [0.0, DROPOUT] if v.dropout_field() else [0.0]
        for d_in, d_out, tokens in [QUICK_SHAPE] if quick else SHAPES:
            if v.kind == "hidden" and d_in != d_out:
                continue
            for dtype, adapter_dtype in DTYPES:
                for p in drops:
                    yield Case(v, dtype, adapter_dtype, p, d_in, d_out, tokens)
        if quick:
            continue
        yield Case(v, "float32", "float32", 0.0, *SMALL)
        for tokens in TOKENS:
            yield Case(v, d_in=768, d_out=768, tokens=tokens)
        for d in WIDTHS:
            yield Case(v, d_in=d, d_out=d, tokens=2048)


def _model_cases(quick: bool) -> Iterator[Case]:
    for model in MODELS:
        for v in variants():
            main = v.name == "lora-r8"
            drops = [0.0, DROPOUT] if v.dropout_field() and model == "minilm" and (main or not quick) else [0.0]
            dtypes = MODEL_DTYPES if (model == "minilm" and main) or not quick else MODEL_DTYPES[:1]
            if quick and model != "minilm" and not main:
                continue
            for targets in ["houlsby"] if v.kind == "hidden" else MATRIX_PLACES.get(v.matrix, PLACES):
                for dtype, adapter_dtype in dtypes:
                    for p in drops:
                        yield Case(v, dtype, adapter_dtype, p, model=model, targets=targets)


def all_cases(quick: bool = False) -> list[Case]:
    """The whole suite, in the order it runs."""
    return [*_layer_cases(quick), *_model_cases(quick)]


def chosen(cases: list[Case], pattern: str | None) -> list[Case]:
    """The cases whose id `pattern` is found in. Raises ValueError for a broken pattern, and where none matches."""
    if pattern is None:
        return cases
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f"[bench] --filter must be a regular expression, got {pattern!r}: {error}") from error
    found = [case for case in cases if search(case.id)]
    if not found:
        words = {part for case in cases for part in case.id.split("/")}
        raise ValueError(
            f"[bench] --filter {pattern!r} matches none of {len(cases)} cases{suggestion(pattern, words)}; ids hold "
            f"{listed(sorted(words), most=40)}. See `veneer bench --list`"
        )
    return found
