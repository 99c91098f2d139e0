# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""How quickstart.py shows its results: a table and a plot."""

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

WOOD, GREY = "#b5651d", "#8a8a8a"  # adapters, and what they are compared with


def table(metrics: list[dict], images: int, batch: int) -> Table:
    """The results, to be printed."""
    result = Table(
        title=f"Digits 5 to 9 with a base that knows 0 to 4, {images} training images",
        title_style="bold",
        caption=f"steps of {batch} images; kept: by autograd, from forward to backward",
    )
    result.add_column("method", style="cyan", no_wrap=True)
    for name in ("trained\nparameters", "share\nof all", "test\naccuracy", "ms\nper step", "kept,\nMiB"):
        result.add_column(name, justify="right", no_wrap=True)
    for m in metrics:
        result.add_row(
            m["name"],
            f"{m['trainable']:,}",
            f"{100 * m['trainable'] / m['total']:.2f} %",
            f"{100 * m['accuracy']:.1f} %",
            f"{m['step_ms']:.1f}",
            f"{m['saved_mib']:.2f}",
        )
    return result


def plot(metrics: list[dict], images: int, path: Path) -> None:
    """Accuracy against trained parameters."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for m in metrics:
        x, y = m["trainable"], 100 * m["accuracy"]
        axes.scatter(
            x, y, s=70, zorder=3, color=GREY if m["name"] in ("linear_probe", "full") else WOOD, edgecolor="white"
        )
        # The two of nearly the same size have their names on either side, the others below.
        dx, dy, ha, va = {"lora": (9, 0, "left", "center"), "bottleneck": (-9, 0, "right", "center")}.get(
            m["name"], (0, -9, "center", "top")
        )
        text = f"{m['name'].replace('_', ' ')}\n{y:.1f} %"
        axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=9)
    counts, low = [m["trainable"] for m in metrics], min(m["accuracy"] for m in metrics)
    axes.set(
        xscale="log",
        xlim=(min(counts) / 2, max(counts) * 2),
        xlabel="trained parameters",
        ylim=(100 * low - 0.3 * (100 - 100 * low), 101),
        ylabel="test accuracy, %",
    )
    axes.set_title(f"Digits 5 to 9 with a base that knows 0 to 4 ({images} training images)", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
