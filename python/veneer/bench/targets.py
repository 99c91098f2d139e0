# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The targets on the CPU, of the kernels and of the structured matrices, and those on a GPU, as a preset of cases and as a
table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from veneer.bench.cases import DROPOUT, Case, variant
from veneer.bench.contender import DENSE, FLOOR, FLOOR_AGAIN, OURS, PEER, PLAIN, TENSORLY

Rows = dict[tuple[str, str], dict[str, Any]]  # (id, contender) -> row


DENSE_NOTE = "Dense: the update made a dense matrix once a step and added to the weight; * where nothing was faster."


@dataclass(frozen=True)
class Relative:
    """A target that is set by our own figure for another variant, in the same run and at the same place."""

    variant: str
    times: float = 1.0
    plus: float = 0.0

    def case(self, case: Case) -> Case:
        return replace(case, variant=variant(self.variant))


@dataclass(frozen=True)
class Target:
    """One figure to reach. `peer`: the peer's when the target was set (Xeon with AMX), None where there is none;
    `measure`: what is read from our row, and from the one of `beside` for the column beside it."""

    line: str
    case: Case
    peer: float | None
    target: float | Relative
    measure: str = "step_tax_median"
    beside: str = PEER

    @property
    def is_tax(self) -> bool:
        return self.measure.endswith("tax_median")


def _layer(name: str, d_in: int, d_out: int, dtype: str = "float32", p: float = 0.0, tokens: int = 2048) -> Case:
    return Case(variant(name), dtype, dtype, p, d_in, d_out, tokens)


def _minilm(name: str, dtype: str = "float32", p: float = 0.0) -> Case:
    return Case(variant(name), dtype, "float32", p, model="minilm", targets="all")


def _both(line: str, name: str, peer: tuple[float | None, ...], target: Relative, beside: str) -> list[Target]:
    """A layer of 768 x 768, and MiniLM."""
    cases = _layer(name, 768, 768), _minilm(name)
    return [Target(line, case, was, target, beside=beside) for case, was in zip(cases, peer, strict=True)]


def targets(device: str = "cpu") -> list[Target]:
    """The table of a device, a line of it at a time; cases with p = 0 and 0.1, or two precisions, share a line."""
    return _on_a_gpu() if device == "cuda" else _on_the_cpu()


def _large(name: str, p: float = 0.0, d: int = 4096) -> Case:
    """A layer that keeps a GPU busy."""
    return _layer(name, d, d, "bfloat16", p, 8192)


def _on_a_gpu() -> list[Target]:
    where = "4096x4096, N = 8192, bf16"
    lora = f"LoRA r 16, {where}, p = 0 / 0.1"
    return [
        Target(lora, _large("lora-r16"), None, 0.15),
        Target(lora, _large("lora-r16", DROPOUT), None, 0.20),
        Target(f"DoRA r 16, {where}", _large("dora-r16"), None, 0.25),
        Target(f"circulant, {where}, against C3A of one block", _large("circulant-single"), None, 0.50),
        Target(f"bottleneck r 64, {where}, over one copy forward and backward", _large("bottleneck-r64"), None, 0.50),
    ]


def _without_target(device: str) -> list[Case]:
    """What is measured with a device's targets: there is no target yet."""
    if device != "cuda":
        return []
    adapters = [("lora-r16", 0.0), ("lora-r16", DROPOUT), ("dora-r16", 0.0), ("circulant-single", 0.0)]
    models = [
        Case(variant(name), "bfloat16", "float32", p, model="minilm-random", targets="all") for name, p in adapters
    ]
    small = [_large(name, p, d=768) for name, p in [*adapters, ("bottleneck-r64", 0.0), ("ia3", 0.0)]]
    return [_large("ia3"), _large("lora-r4"), *small, *models]


def _on_the_cpu() -> list[Target]:
    lora, dora, ring = "lora-r8", "dora-r8", "circulant-single"
    bf16 = "bfloat16"
    one = "LoRA 768x768 fp32, p = 0 / 0.1"
    two = "LoRA 768x768 bf16 (bf16 adapters), p = 0 / 0.1"
    three = "LoRA 768x3072 fp32, p = 0 / 0.1"
    four = "DoRA 768x768 fp32 / bf16, p = 0"
    five = "MiniLM step, all six linears, LoRA r 8, p = 0 / 0.1, fp32"
    six = "the same, bf16 base, fp32 adapters"
    eight = "circulant fp32 d = 768 / 1024 / 4096 (N = 1024 there), against C3A of one block"
    nine = "circulant bf16 d = 768 / 4096"
    lokr, c3a = "LoKr r 8, 768x768 / MiniLM step, fp32", "C3A b 64, 768x768 / MiniLM step, fp32"
    ten = "(IA)3 768x768 fp32 / bf16"
    places, three_more, twice = "768x768 / MiniLM step, fp32", Relative(lora, plus=0.03), Relative(ring, times=2.0)
    blocks = f"block tensor train r 8 (LoRA's + 3 points), {places}, against tensorly-torch's reconstructed one"
    train = f"tensor train r 8 (LoRA's + 3 points), {places}, against plain"
    single = f"symmetric Toeplitz T(t) (twice the circulant's), {places}, against plain"
    double = f"symmetric Toeplitz T(b) T(a) (twice the circulant's), {places}, against plain"
    ldr = f"LDR of rank 1 (twice the circulant's), {places}, against plain"
    return [
        Target(one, _layer(lora, 768, 768), 0.34, 0.07),
        Target(one, _layer(lora, 768, 768, p=DROPOUT), 1.01, 0.12),
        Target(two, _layer(lora, 768, 768, bf16), 0.76, 0.25),
        Target(two, _layer(lora, 768, 768, bf16, DROPOUT), 3.65, 0.35),
        Target(three, _layer(lora, 768, 3072), 0.29, 0.06),
        Target(three, _layer(lora, 768, 3072, p=DROPOUT), 0.45, 0.08),
        Target(four, _layer(dora, 768, 768), 0.80, 0.15),
        Target(four, _layer(dora, 768, 768, bf16), 2.11, 0.40),
        Target(five, _minilm(lora), 0.29, 0.10),
        Target(five, _minilm(lora, p=DROPOUT), 0.85, 0.15),
        Target(six, _minilm(lora, bf16), 0.65, 0.25),
        Target(six, _minilm(lora, bf16, DROPOUT), 1.71, 0.35),
        Target("MiniLM step, all six linears, circulant (C3A b384) fp32", _minilm(ring), 3.06, 0.40),
        Target(eight, _layer(ring, 768, 768), 3.24, 0.15),
        Target(eight, _layer(ring, 1024, 1024), 2.44, 0.15),
        Target(eight, _layer(ring, 4096, 4096, tokens=1024), 0.83, 0.08),
        Target(nine, _layer(ring, 768, 768, bf16), 16.19, 1.00),
        Target(nine, _layer(ring, 4096, 4096, bf16, tokens=1024), 3.56, 0.20),
        Target(lokr, _layer("lokr-r8", 768, 768), 1.64, 0.25),
        Target(lokr, _minilm("lokr-r8"), 0.95, 0.20),
        Target(c3a, _layer("c3a-b64", 768, 768), 4.97, 0.40),
        Target(c3a, _minilm("c3a-b64"), 3.39, 0.50),
        *_both(blocks, "tensor_train", (1.80, None), three_more, TENSORLY["reconstructed"]),
        *_both(train, "tensor_train-matrix", (None, None), three_more, PLAIN),
        *_both(single, "symmetric_toeplitz-single", (None, None), twice, PLAIN),
        *_both(double, "surm-symmetric_toeplitz", (None, None), twice, PLAIN),
        *_both(ldr, "surm-ldr", (None, None), twice, PLAIN),
        Target(ten, _layer("ia3", 768, 768), 0.15, 0.05),
        Target(ten, _layer("ia3", 768, 768, bf16), 0.38, 0.15),
        Target(
            "bottleneck r = 48 against the plain PyTorch module (time)",
            _layer("bottleneck", 768, 768),
            1.0,
            0.6,
            "step_over_plain",
            PLAIN,
        ),
        Target(
            "saved for backward beyond the floor and x, LoRA 768x768 fp32 p = 0.1 (MiB)",
            _layer(lora, 768, 768, p=DROPOUT),
            2048 * (768 * 8 + 8 * 4) / 2**20,
            2048 * (768 / 8 + 8 * 4) / 2**20,
            "saved_added_bytes",
        ),
    ]


def target_cases(device: str = "cpu") -> list[Case]:
    """The preset of a device: each case once, and those that a target is relative to."""
    found: dict[str, Case] = {}
    for target in targets(device):
        of = [target.target.case(target.case)] if isinstance(target.target, Relative) else []
        found |= {case.id: case for case in [*of, target.case]}
    return [*found.values(), *_without_target(device)]


def as_set(provenance: dict[str, Any]) -> bool:
    """Whether the bfloat16 targets hold as they were set: on a GPU, or on a processor with AMX."""
    return provenance["device"] == "cuda" or bool(provenance.get("amx"))


def _read(row: dict[str, Any] | None, target: Target) -> float | None:
    value = row and row.get(target.measure)
    if value is None:
        return None
    return value / 2**20 if target.measure.endswith("bytes") else value


def _show(value: float | None, target: Target) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.0f} %" if target.is_tax else f"{value:.2f}"


def goal(target: Target, rows: Rows, peer_now: float | None, amx: bool) -> float | None:
    """The target on this machine and in this run. The bfloat16 rows were set for a processor with AMX; on another one
    they are a quarter of the peer's tax in the same run."""
    if isinstance(target.target, Relative):
        other = _read(rows.get((target.target.case(target.case).id, OURS)), target)
        return None if other is None else target.target.times * other + target.target.plus
    if target.is_tax and target.case.dtype == "bfloat16" and not amx:
        return None if peer_now is None else peer_now / 4
    return target.target


def _dense(target: Target, rows: Rows) -> str:
    """The tax of one dense matrix a step, marked where it is the least of all contenders."""
    taxes = {
        name: value
        for (id, name), row in rows.items()
        if id == target.case.id and name not in (FLOOR, FLOOR_AGAIN) and (value := _read(row, target)) is not None
    }
    if not target.is_tax or DENSE not in taxes:
        return "-"
    return _show(taxes[DENSE], target) + " *" * (taxes[DENSE] == min(taxes.values()))


@dataclass
class Line:
    """A line of the table, as text; `reached`: for each of its figures, None where it was not measured."""

    case: str
    peer: str
    target: str
    ours: str
    dense: str
    reached: list[bool | None]


def table(rows: list[dict[str, Any]], amx: bool) -> list[Line]:
    """The lines of which at least one figure was measured. `amx`: whether the bfloat16 targets hold (`as_set`)."""
    found: Rows = {(row["id"], row["contender"]): row for row in rows}
    lines: dict[str, list[tuple[str, str, str, str, bool | None]]] = {}
    measured: set[str] = set()
    for target in targets(rows[0]["device"] if rows else "cpu"):
        ours = _read(found.get((target.case.id, OURS)), target)
        beside = found.get((target.case.id, target.beside))
        peer = 1.0 if target.measure == "step_over_plain" and beside else _read(beside, target)
        aim = goal(target, found, peer, amx)
        if ours is not None:
            measured.add(target.line)
        reached = None if ours is None or aim is None else ours <= aim
        lines.setdefault(target.line, []).append(
            (_show(peer, target), _show(aim, target), _show(ours, target), _dense(target, found), reached)
        )
    join: Callable[[Any], str] = " / ".join
    return [
        Line(line, *(join(p[i] for p in parts) for i in range(4)), [p[4] for p in parts])
        for line, parts in lines.items()
        if line in measured
    ]
