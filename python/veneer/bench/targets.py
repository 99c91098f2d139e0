# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The targets on the CPU, of the kernels and of the structured matrices, as a preset of cases and as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from veneer.bench.cases import DROPOUT, Case, variant
from veneer.bench.contender import OURS, PEER, PLAIN

Rows = dict[tuple[str, str], dict[str, Any]]  # (id, contender) -> row


@dataclass(frozen=True)
class Target:
    """One figure to reach. `peft`: HF PEFT's when the target was set (Xeon with AMX); `measure`: what is read from
    our row, and from HF PEFT's (or the plain module's) for the column beside it."""

    line: str
    case: Case
    peft: float
    target: float
    measure: str = "step_tax_median"
    beside: str = PEER

    @property
    def is_tax(self) -> bool:
        return self.measure.endswith("tax_median")


def _layer(name: str, d_in: int, d_out: int, dtype: str = "float32", p: float = 0.0, tokens: int = 2048) -> Case:
    return Case(variant(name), dtype, dtype, p, d_in, d_out, tokens)


def _minilm(name: str, dtype: str = "float32", p: float = 0.0) -> Case:
    return Case(variant(name), dtype, "float32", p, model="minilm", targets="all")


def targets() -> list[Target]:
    """The table, a line of it at a time; cases with p = 0 and 0.1, or two precisions, share a line."""
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


def target_cases() -> list[Case]:
    """The preset: each case once."""
    return list({t.case.id: t.case for t in targets()}.values())


def _read(row: dict[str, Any] | None, target: Target) -> float | None:
    value = row and row.get(target.measure)
    if value is None:
        return None
    return value / 2**20 if target.measure.endswith("bytes") else value


def _show(value: float | None, target: Target) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.0f} %" if target.is_tax else f"{value:.2f}"


def goal(target: Target, peft_now: float | None, amx: bool) -> float | None:
    """The target on this machine: the bfloat16 rows were set for a processor with AMX; on another one they are a
    quarter of HF PEFT's tax in the same run."""
    if target.is_tax and target.case.dtype == "bfloat16" and not amx:
        return None if peft_now is None else peft_now / 4
    return target.target


@dataclass
class Line:
    """A line of the table, as text; `reached`: for each of its figures, None where it was not measured."""

    case: str
    peft: str
    target: str
    ours: str
    reached: list[bool | None]


def table(rows: list[dict[str, Any]], amx: bool) -> list[Line]:
    """The lines of which at least one figure was measured."""
    found: Rows = {(row["id"], row["contender"]): row for row in rows}
    lines: dict[str, list[tuple[str, str, str, bool | None]]] = {}
    measured: set[str] = set()
    for target in targets():
        ours = _read(found.get((target.case.id, OURS)), target)
        beside = found.get((target.case.id, target.beside))
        peft = 1.0 if target.measure == "step_over_plain" and beside else _read(beside, target)
        aim = goal(target, peft, amx)
        if ours is not None:
            measured.add(target.line)
        reached = None if ours is None or aim is None else ours <= aim
        lines.setdefault(target.line, []).append(
            (_show(peft, target), _show(aim, target), _show(ours, target), reached)
        )
    join: Callable[[Any], str] = " / ".join
    return [
        Line(line, *(join(p[i] for p in parts) for i in range(3)), [p[3] for p in parts])
        for line, parts in lines.items()
        if line in measured
    ]
