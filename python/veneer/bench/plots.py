# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""One picture of a run: tax by method, time against tokens and width, memory. Panels without data are left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from veneer.bench.contender import COMPILED, DENSE, FLOOR, OURS, PEER, PLAIN, TENSORLY

COLOURS = {
    OURS: "#0b6e4f",
    PLAIN: "#9aa5b1",
    DENSE: "#5b7db1",
    PEER: "#d1495b",
    TENSORLY["factorized"]: "#e0a458",
    TENSORLY["reconstructed"]: "#8f5d2e",
    OURS + COMPILED: "#6fbf9b",
    PEER + COMPILED: "#eda6af",
    FLOOR: "#222222",
}
LEAST = "#f2c14e"
Rows = list[dict[str, Any]]


def _label(row: dict[str, Any]) -> str:
    p = f", p {row['dropout']:g}" if row["dropout"] else ""
    return row["variant"] + p


def _condition(row: dict[str, Any]) -> tuple[str, ...]:
    dtype = row["dtype"] if row["dtype"] == row["adapter_dtype"] else f"{row['dtype']}, {row['adapter_dtype']} adapters"
    if row["level"] == "layer" and row["site"] == "hidden":
        return f"hidden state of {row['d_in']}", f"{row['tokens']} tokens", dtype
    if row["level"] == "model":
        return (
            row["model"],
            "q, v" if row["targets"] == "qv" else "all linears" if row["targets"] == "all" else row["targets"],
            dtype,
        )
    return f"{row['d_in']} to {row['d_out']}", f"{row['tokens']} tokens", dtype


def _least(row: dict[str, Any]) -> float | None:
    """Of our row: the tax in percent that the cost model says is the least."""
    if row["contender"] != OURS or row["bound_ms"] is None or row["added_ms"] is None:
        return None
    if row["roofline"] is None or row["roofline"] > 1.0:  # of an earlier model, which was refuted
        return None
    return 100 * row["bound_ms"] / (row["step_median_ms"] - row["added_ms"])


def _bars(axes: Any, rows: Rows, value: Callable[[dict[str, Any]], float], unit: str, form: str, title: str) -> None:
    """Horizontal bars, a group for each variant; taxes with their intervals, and ours with the least by the cost model."""
    labels = list(dict.fromkeys(_label(row) for row in rows))
    names = [n for n in COLOURS if any(r["contender"] == n for r in rows)]
    height = 0.8 / len(names)
    ends = []
    for i, name in enumerate(names):
        for row in (r for r in rows if r["contender"] == name):
            y, length = labels.index(_label(row)) + (i - (len(names) - 1) / 2) * height, value(row)
            axes.barh(y, length, height * 0.9, color=COLOURS[name])
            end = max(length, 0.0)
            if unit == "%":
                low, high = 100 * row["step_tax_low"], 100 * row["step_tax_high"]
                axes.plot([low, high], [y, y], color="#555555", lw=0.8)
                end = max(end, high)
                if (bound := _least(row)) is not None:
                    axes.plot([bound, bound], [y - height / 2, y + height / 2], color=LEAST, lw=2.5)
            ends.append((end, y, format(length, form if length < 1000 else ",.0f")))
    most = max(end for end, _, _ in ends) or 1.0
    for end, y, text in ends:
        axes.text(end + 0.01 * most, y, text, va="center", fontsize=7)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(right=most * 1.12)
    axes.set_xlabel(unit)
    axes.set_title(title, loc="left", fontsize=9)
    axes.grid(axis="x", alpha=0.3)


def _lines(axes: Any, rows: Rows, key: str, title: str, label: str) -> None:
    for name in (FLOOR, OURS, PLAIN, PEER):
        points = sorted((r[key], r["step_median_ms"]) for r in rows if r["contender"] == name)
        if points:
            axes.plot(
                *zip(*points, strict=True),
                marker="o",
                ms=4,
                color=COLOURS[name],
                label=name,
                ls="--" if name == FLOOR else "-",
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({r[key] for r in rows}), [str(v) for v in sorted({r[key] for r in rows})])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("ms a step")
    axes.set_title(title, loc="left", fontsize=9)
    axes.grid(alpha=0.3)


def _sweeps(rows: Rows) -> list[tuple[str, str, str, Rows]]:
    """(key, label, title, rows) of the variants with the longest series over tokens and over width, two of each."""
    found = []
    plain = [r for r in rows if r["level"] == "layer" and r["dtype"] == "float32" and not r["dropout"]]
    for key, label, fixed in (("tokens", "tokens", "d_in"), ("d_in", "width d", "tokens")):
        series: dict[tuple[str, int], Rows] = defaultdict(list)
        for row in plain:
            if row["d_in"] == row["d_out"]:
                series[row["variant"], row[fixed]].append(row)
        long = {k: v for k, v in series.items() if len({r[key] for r in v}) >= 3}
        best: dict[str, tuple[int, Rows]] = {}
        for (variant, value), some in long.items():
            if variant not in best or len(some) > len(best[variant][1]):
                best[variant] = value, some
        ranked = sorted(
            best.items(), key=lambda item: (item[0] not in ("lora-r8", "circulant-single"), -len(item[1][1]))
        )
        for variant, (value, some) in ranked[:2]:
            where = f"d {value}" if fixed == "d_in" else f"{value} tokens"
            found.append((key, label, f"{variant}, fp32, {where}", some))
    return found


def _tax(axes: Any, rows: Rows, condition: str) -> None:
    _bars(axes, rows, lambda row: 100 * row["step_tax_median"], "%", ".0f", f"tax over the frozen floor\n{condition}")


def _kept(axes: Any, rows: Rows, condition: str) -> None:
    title = f"kept for backward beyond floor and input\n{condition}"
    _bars(axes, rows, lambda row: (row["saved_added_bytes"] or 0) / 2**20, "MiB", ".3g", title)


def _panels(rows: Rows) -> list[tuple[float, Callable[[Any], None]]]:
    """(height in inches, what draws it) of each panel."""
    taxed = [row for row in rows if row["contender"] in COLOURS and row["contender"] != FLOOR]
    found: list[tuple[float, Callable[[Any], None]]] = []
    for level in ("layer", "model"):
        mine = [row for row in taxed if row["level"] == level]
        counts = Counter(_condition(row) for row in mine if row["contender"] == OURS)
        conditions = [condition for condition, _ in counts.most_common(2)]
        for draw, condition in [*((_tax, c) for c in conditions), *((_kept, c) for c in conditions[:1])]:
            some = [row for row in mine if _condition(row) == condition]
            found.append((0.17 * len(some) + 1.1, partial(draw, rows=some, condition=", ".join(condition))))
    for key, label, title, some in _sweeps(rows):
        found.append((3.2, partial(_lines, rows=some, key=key, title=f"time of a step\n{title}", label=label)))
    return found


def plot(rows: Rows, file: Path) -> None:
    """Draws what the rows allow into `file` (.png, .svg, .pdf)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    rows = [row for row in rows if row["step_median_ms"] is not None]
    panels = _panels(rows)
    if not panels:
        raise ValueError("[bench] nothing was measured that could be plotted")
    columns = 1 if len(panels) == 1 else 2
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(height for height, _ in line) for line in lines]
    figure, axes = pyplot.subplots(
        len(lines),
        columns,
        figsize=(7.5 * columns, sum(heights) + 0.7),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    for place, (_, draw) in zip(axes.flat, panels, strict=False):
        draw(place)
    for place in axes.flat[len(panels) :]:
        place.set_visible(False)
    sweeps = bool(_sweeps(rows))
    used = [name for name in COLOURS if any(row["contender"] == name for row in rows) and (name != FLOOR or sweeps)]
    patches: list[Any] = [Patch(color=COLOURS[name]) for name in used]
    if any(_least(row) is not None for row in rows):
        used.append("least tax by the cost model (roofline)")
        patches.append(Line2D([], [], color=LEAST, lw=2.5))
    figure.legend(patches, used, loc="outside upper left", ncols=len(used), frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
