# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What a run prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from veneer.bench import targets
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, OURS
from veneer.bench.timing import FEW, NOISY


def console() -> Console:
    """Wide enough for the table where the output is no terminal."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=170)


def percent(value: float | None) -> str:
    """0.07 as "7 %"."""
    return "-" if value is None else f"{100 * value:.0f} %"


def mebibytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 2**20:.1f}" if abs(value) >= 2**20 or value == 0 else f"{value / 2**20:.2g}"


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


TIMES = ["step ms", "tax min", "tax median", "95 %", "forward", "backward", "/ plain", "/ peft"]
REST = [
    "saved MiB",
    "added MiB",
    "peak MiB",
    "trained",
    "must add ms",
    "adds ms",
    "of roofline",
    "host ms",
    "copy of x ms",
]


def times(row: dict[str, Any]) -> list[str]:
    """A row in the order of `TIMES`."""
    interval = (
        "-" if row["step_tax_low"] is None else f"{100 * row['step_tax_low']:.0f} .. {100 * row['step_tax_high']:.0f}"
    )
    return [
        _number(row["step_min_ms"]),
        percent(row["step_tax_min"]),
        percent(row["step_tax_median"]),
        interval,
        percent(row["forward_tax_median"]),
        percent(row["backward_tax_median"]),
        _number(row["step_over_plain"]),
        _number(row["step_over_peft"]),
    ]


def rest(row: dict[str, Any]) -> list[str]:
    """A row in the order of `REST`."""
    saved = mebibytes(row["saved_bytes"]) + ("" if row["saved_agree"] in (None, True) else " !")
    return [
        saved,
        mebibytes(row["saved_added_bytes"]),
        mebibytes(row["peak_bytes"]),
        "-" if row["trainable"] is None else f"{row['trainable']:,}",
        _number(row["bound_ms"]),
        _number(row["added_ms"]),
        percent(row["roofline"]),
        _number(row.get("host_ms")),
        _number(row.get("copy_ms"), ".3f"),
    ]


def by_case(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of one case together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return found


def _table(
    rows: list[dict[str, Any]], columns: list[str], cells: Callable[[dict[str, Any]], list[str]], title: str
) -> Table:
    """One block of lines for each case that was measured."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for id, group in by_case(rows).items():
        group = [row for row in group if row["step_min_ms"] is not None]  # noqa: PLW2901
        if not group:
            continue
        table.add_row(Text(id, style="bold"))
        for row in group:
            name = row["contender"]
            style = "green" if name == OURS else "red" if name == FLOOR_AGAIN and row["noisy"] else ""
            label = (
                f"  {name} (noise {row['noise_points']:.1f} points)"
                if name == FLOOR_AGAIN and columns is TIMES
                else f"  {name}"
            )
            table.add_row(*(Text(cell, style=style) for cell in [label, *cells(row)]))
        table.add_section()
    return table


def results(rows: list[dict[str, Any]]) -> list[Table]:
    """Times, then bytes and roofline."""
    return [
        _table(
            rows,
            TIMES,
            times,
            "time; step: forward and backward (and AdamW, of a model); tax: over the frozen floor in the same run",
        ),
        _table(
            rows,
            REST,
            rest,
            "kept for backward, most live at once, and what must be added by the cost model (the floor: its own time)",
        ),
    ]


def case_line(rows: list[dict[str, Any]]) -> Text:
    """One case in a line, for those who watch."""
    found = {row["contender"]: row for row in rows if row["step_min_ms"] is not None}
    if FLOOR not in found:
        return Text(
            f"{rows[0]['id']}: {rows[0]['error'] or rows[0]['note']}", style="red" if rows[0]["error"] else "dim"
        )
    taxes = ", ".join(
        f"{name} {percent(row['step_tax_median'])}" for name, row in found.items() if name not in (FLOOR, FLOOR_AGAIN)
    )
    floor = found[FLOOR]
    line = Text(f"{floor['id']}: floor {floor['step_min_ms']:.2f} ms, {taxes}; {floor['rounds']} rounds, ")
    return line.append(f"noise {floor['noise_points']:.1f} points", style="bold red" if floor["noisy"] else "")


def target_table(rows: list[dict[str, Any]], provenance: dict[str, Any]) -> Table:
    """The table of issue 5 with our column."""
    as_set = targets.as_set(provenance)
    title = f"targets (median of paired ratios). {targets.DENSE_NOTE}" + (
        "" if as_set else "; no AMX here: the bf16 targets are a quarter of HF PEFT's tax in this run"
    )
    table = Table("case", "peer now", "target", "ours", "dense", "", title=title, title_justify="left")
    for line in targets.table(rows, as_set):
        marks = " ".join("-" if r is None else "reached" if r else "missed" for r in line.reached)
        style = "red" if False in line.reached else "green"
        table.add_row(line.case, line.peer, line.target, line.ours, line.dense, Text(marks, style=style))
    return table


def constants_line(constants: dict[str, Any]) -> str:
    """The cost model's constants."""
    gemm = ", ".join(f"{dtype} {rate / 1e9:,.4g} GFLOP/s" for dtype, rate in constants["gemm"].items())
    return (
        f"machine: products {gemm}; real FFT {constants['fft'] / 1e9:.1f} GFLOP/s; "
        f"copy {constants['copy'] / 1e9:.1f} GB/s; "
        f"an operator {1e6 * constants['dispatch']:.1f} us, with autograd {1e6 * constants['node']:.1f} us"
    )


def provenance_line(p: dict[str, Any]) -> str:
    gpu = f"{p['gpu']}, " if p.get("gpu") else ""
    return (
        f"{gpu}{p['cpu']} ({p['cpu_capability']}{', AMX' if p['amx'] else ''}), {p['cores']} cores, "
        f"{p['threads']} threads, load {p['load_before']}; "
        f"veneer {p['veneer']} (build {p['build'][:12]}, commit {(p['commit'] or 'none')[:12]}), "
        f"torch {p['torch']}, peft {p['peft']}, "
        f"transformers {p['transformers']}; {p['date']}"
    )


def noise_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the floor was from itself: for the JSON file, and for the end of the run."""
    points = {
        row["id"]: row["noise_points"] for row in rows if row["contender"] == FLOOR and row["noise_points"] is not None
    }
    noisy = sorted(id for id, value in points.items() if value > NOISY)
    return {
        "limit_points": NOISY,
        "worst_points": max(points.values(), default=None),
        "cases": len(points),
        "noisy_cases": noisy,
        "few_rounds": sorted(row["id"] for row in rows if row["contender"] == FLOOR and (row["rounds"] or FEW) < FEW),
    }


def print_end(out: Console, rows: list[dict[str, Any]], noise: dict[str, Any]) -> None:
    """Notes, errors, disagreements and noise: what makes a figure less than it seems."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            notes.setdefault(f"{row['contender']}: {row['note']}", []).append(row["id"])
    for note, ids in notes.items():
        out.print(Text(f"note: {note} ({len(ids)} case{'s' * (len(ids) > 1)})", style="dim"))
    for row in rows:
        if row["saved_agree"] is False:
            out.print(
                Text(
                    f"saved bytes differ: {row['id']} {row['contender']}: autograd {row['saved_bytes']:,}, allocator "
                    f"{row['saved_allocator_bytes']:,}",
                    style="yellow",
                )
            )
        if row["error"]:
            out.print(Text(f"ERROR {row['id']}: {row['error']}", style="bold red"))
    if noise["few_rounds"]:
        few = len(noise["few_rounds"])
        out.print(
            Text(f"fewer than {FEW} rounds in {few} of {noise['cases']} cases: they show that all works", "yellow")
        )
    if noise["worst_points"] is not None:
        text = f"noise: the floor differs from itself by up to {noise['worst_points']:.1f} points"
        if noise["noisy_cases"]:
            out.print(
                Text(
                    f"{text}; MORE THAN {NOISY:.0f} POINTS in {len(noise['noisy_cases'])} of {noise['cases']} cases. "
                    "Their taxes are not to be "
                    "quoted: repeat the run on a quiet machine, or with more --repeats",
                    style="bold red",
                )
            )
        else:
            out.print(text)
