# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""How well each structured matrix approximates a given one at equal numbers of parameters.

    python examples/python/approximation.py --out docs/results/approximation

Targets of 64 x 64: Gaussian noise, a Toeplitz-like matrix (displacement rank 2), and the updates that training gave the
query and value of a small vision transformer on pictures of classes it had not seen (see images.py). Families and budgets
are those of images.py; the closest matrix of each is veneer.project's. Every finished family is in <out>.json at once; a
study that was stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from image_data import DataError, load_task
from image_models import WIDTH, adapted, base_folder, load_base, train, updates
from images import FAMILIES, ROOT, entries, processor, read, write
from rich.console import Console
from tqdm import tqdm

import veneer

mpl.use("Agg")
from matplotlib import pyplot as plt

console = Console()
KINDS = {"noise": "Gaussian noise", "toeplitz_like": "Toeplitz-like", "update": "trained updates"}
SKIPPED = {"dense", "vera"}  # holds every matrix; its error is that of its random frozen pair


def targets(arguments: argparse.Namespace) -> dict[str, list[torch.Tensor]]:
    """Matrices [d, d] of each kind, float64."""
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)

    def toeplitz_like() -> torch.Tensor:
        """Z_1(g) Z_-1(h) + Z_1(g') Z_-1(h')."""
        vectors = torch.randn(2, 2, WIDTH, generator=generator, dtype=torch.float64)
        i = torch.arange(WIDTH)
        shift = (i[:, None] - i) % WIDTH
        sign = torch.where(i[:, None] >= i, 1.0, -1.0).double()
        return sum(g[shift] @ (h[shift] * sign) for g, h in vectors)

    folder = base_folder(arguments.cache, arguments.data, arguments.base_epochs, lambda *_: None)
    base, task = load_base(folder), load_task(arguments.data, arguments.task)
    model = adapted(base, {"name": "dense"}, task.classes, 0)
    train(model, task.train, arguments.steps, 1e-3, 0)
    return {
        "noise": [noise() for _ in range(4)],
        "toeplitz_like": [toeplitz_like() for _ in range(4)],
        "update": updates(model, base),
    }


def study(path: Path, arguments: argparse.Namespace) -> dict:
    """Relative errors by "kind family budget"; done ones are kept."""
    settings = {"task": arguments.task, "steps": arguments.steps, "base_epochs": arguments.base_epochs}
    results = read(path) or {"settings": settings, "runs": {}}
    if results["settings"] != settings:
        raise DataError(f"[--out] {path} is of another study: {results['settings']}. Choose another --out")
    results["where"] = {"cpu": processor(), "torch": torch.__version__, "veneer": veneer.__version__}
    given = targets(arguments)
    chosen = [(f, b) for f, b in entries(list(FAMILIES)) if f in FAMILIES and f not in SKIPPED]
    for family, budget in tqdm(chosen, desc="families", disable=None):
        for kind, matrices in given.items():
            if f"{kind} {family} {budget}" in results["runs"]:
                continue
            start = time.perf_counter()
            matrix = {"name": family, **FAMILIES[family][budget]}
            found = [veneer.project(matrix, m, max_iterations=arguments.iterations) for m in matrices]
            results["runs"][f"{kind} {family} {budget}"] = {
                "error": round(statistics.mean(f.relative_error for f in found), 5),
                "parameters": found[0].parameters,
                "converged": all(f.converged for f in found),
                "seconds": round(time.perf_counter() - start, 2),
            }
        write(path, results)
    return results


def render(results: dict, out: Path) -> None:
    """The page and the plot."""
    rows = [(*key.split(), row) for key, row in results["runs"].items()]
    lines = [
        "# Approximation errors of structured matrices",
        "",
        f"||T - M|| / ||T|| of the closest M that `veneer.project` found, {WIDTH} x {WIDTH}, mean over the matrices of a kind; a star:",
        "not all searches had converged. Made by examples/python/approximation.py, which says what the targets are.",
        "",
        f"| matrix | parameters | {' | '.join(KINDS.values())} |",
        "|---|---:|" + "---:|" * len(KINDS),
    ]
    for family, budget in dict.fromkeys((f, b) for _, f, b, _ in rows):
        of = {kind: row for kind, f, b, row in rows if (f, b) == (family, budget)}
        cells = [f"{of[k]['error']:.3f}{'' if of[k]['converged'] else '*'}" if k in of else "" for k in KINDS]
        lines.append(f"| {family.replace('_', ' ')} | {next(iter(of.values()))['parameters']} | {' | '.join(cells)} |")
    out.with_suffix(".md").write_text("\n".join(lines) + f"\n\n![errors against parameters]({out.name}.png)\n")
    figure, axes = plt.subplots(1, len(KINDS), figsize=(15, 5.5), sharey=True)
    families = list(dict.fromkeys(f for _, f, _, _ in rows))
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for i, family in enumerate(families):
            points = sorted((row["parameters"], row["error"]) for k, f, _, row in rows if (k, f) == (kind, family))
            style = {"color": plt.cm.tab20(i % 20), "marker": "os^Dv<>P"[i % 8], "markersize": 5, "linewidth": 1.2}
            axis.plot(*zip(*points, strict=True), label=family.replace("_", " "), **style)
        axis.set(title=title, xscale="log", xlabel="parameters", ylim=(0, 1.03))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="center right", fontsize=9)
    figure.tight_layout(rect=(0, 0, 0.87, 1))
    figure.savefig(out.with_suffix(".png"), dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets (%(default)s)")
    add("--out", type=Path, default=ROOT / "docs" / "results" / "approximation", help="of .json, .md and .png")
    add("--cache", type=Path, default=ROOT / "build" / "images", help="folder of the base model (%(default)s)")
    add("--task", default="omniglot", help="whose updates (%(default)s)")
    add("--steps", type=int, default=250, help="of training for the updates (%(default)s)")
    add("--base-epochs", type=int, default=150, help="of the base (%(default)s, that of images.py)")
    add("--iterations", type=int, default=500, help="of veneer.project for a start (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        results = study(arguments.out.with_suffix(".json"), arguments)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    render(results, arguments.out)
    console.print(f"written: {arguments.out}.json, .md, .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
