# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the results of a JSON file into a Markdown page, between two markers; nothing else of the page is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from veneer.bench import report, targets
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, OURS, PEER
from veneer.config import write_whole

PAGE = Path("docs/performance.md")


def markers(device: str) -> tuple[str, str]:
    """The comment lines around the results of a device."""
    return f"<!-- veneer bench: {device} -->", f"<!-- veneer bench: end of {device} -->"


def _table(head: list[str], lines: list[list[str]], left: int = 1) -> list[str]:
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return ["| " + " | ".join(line) + " |" for line in [head, rule, *lines]]


def _targets(data: dict[str, Any]) -> list[str]:
    as_set = targets.as_set(data["provenance"])
    lines = [
        [
            line.case,
            line.peer,
            line.target,
            line.ours,
            line.dense,
            " ".join("-" if r is None else "yes" if r else "no" for r in line.reached),
        ]
        for line in targets.table(data["rows"], as_set)
    ]
    if not lines:
        return []
    note = (
        ""
        if as_set
        else " This processor has no AMX: the bfloat16 targets are a quarter of HF PEFT's tax in the same run."
    )
    return [
        f"### Targets\n\nTax, median of paired ratios. {targets.DENSE_NOTE}{note}\n",
        *_table(["case", "peer now", "target", "ours", "dense once a step", "reached"], lines),
        "",
    ]


def _level(rows: list[dict[str, Any]], title: str) -> list[str]:
    measured = dict.fromkeys(row["contender"] for row in rows if row["step_min_ms"])
    names = [name for name in measured if name not in (FLOOR, FLOOR_AGAIN)]
    head = [
        "case",
        "floor ms",
        "noise",
        *names,
        *(f"added MiB, {n}" for n in (OURS, PEER) if n in names),
        "of roofline",
    ]
    lines = []
    for id, group in report.by_case(rows).items():
        found = {row["contender"]: row for row in group}
        if FLOOR not in found:
            problem = group[0]["error"] or group[0]["note"] or ""
            lines.append([f"`{id}`", "-", "-", problem[:120].replace("|", "/"), *["-"] * (len(head) - 4)])
            continue
        noise = f"{found[FLOOR]['noise_points']:.1f}" + (" **noisy**" if found[FLOOR]["noisy"] else "")
        taxes = [
            f"{report.percent(r['step_tax_min'])} / {report.percent(r['step_tax_median'])}"
            if (r := found.get(n)) and r["step_tax_min"] is not None
            else "-"
            for n in names
        ]
        added = [
            report.mebibytes(r["saved_added_bytes"]) if (r := found.get(n)) else "-" for n in (OURS, PEER) if n in names
        ]
        lines.append(
            [
                f"`{id}`",
                f"{found[FLOOR]['step_min_ms']:.2f}",
                noise,
                *taxes,
                *added,
                report.percent(found[OURS]["roofline"]),
            ]
        )
    return [f"### {title}\n\nTax, minimum / median.\n", *_table(head, lines), ""]


def section(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows, noise = data["rows"], data["noise"]
    worst = "-" if noise["worst_points"] is None else f"{noise['worst_points']:.1f} points"
    parts = [f"Measured with `{data['provenance']['command']}`: {report.provenance_line(data['provenance'])}.", ""]
    if data["constants"]:
        parts += [f"The cost model's constants on this {report.constants_line(data['constants'])}.", ""]
    parts += [
        f"The floor against itself: at worst {worst}, above {noise['limit_points']:.0f} points in "
        f"{len(noise['noisy_cases'])} of {noise['cases']} cases.",
        "",
    ]
    parts += _targets(data)
    for level, title in (("layer", "Layers"), ("model", "Models")):
        some = [row for row in rows if row["level"] == level]
        if some:
            parts += _level(some, title)
    return "\n".join(parts).rstrip() + "\n"


def render(source: Path, page: Path) -> None:
    """Puts the results of `source` into `page`.

    Raises:
        ValueError: the file is not one of ours, or the page lacks the markers.
    """
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        device = data["provenance"]["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"[bench] --render expects a file written by `veneer bench --json`, got {source}: {error!r}"
        ) from error
    begin, end = markers(device)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"[bench] --into expects a page, got {page}: {error}") from error
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"[bench] {page} must have the lines {begin} and {end}, once each, in this order")
    before, after = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    write_whole({page: f"{before}\n\n{section(data)}\n{after}".encode()})
