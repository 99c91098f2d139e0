# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""How well each structured matrix approximates a given one at equal numbers of parameters.

    python examples/python/approximation.py --out docs/results/approximation

Targets: Gaussian noise and Toeplitz-like matrices (displacement rank 2), 64 x 64; the updates that training gave the query
and value of a small vision transformer on pictures of classes it had not seen (see images.py), 64 x 64; and what full
fine-tuning on TREC changed in the query and value of MiniLM's first and last block (see trec.py), 384 x 384. Families and
budgets are those of images.py and MORE; the closest matrix of each is veneer.project's. Every finished search is in
<out>.json at once; a study that was stopped goes on with the same command. --quick shows in a minute that it works.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import matplotlib as mpl
import text_classification
import torch
from image_data import DataError, load_task
from image_models import WIDTH, adapted, base_folder, load_base, train, updates
from images import FAMILIES, Protocol, entries
from safetensors.torch import load_file
from study import ROOT, StudyError, finish, processor, read, write
from text_models import UserError, model_folder
from tqdm import tqdm
from trec import run_arguments

import veneer

mpl.use("Agg")
from matplotlib import pyplot as plt

KINDS = {
    "noise": "Gaussian noise",
    "toeplitz_like": "Toeplitz-like",
    "update": "updates, pictures",
    "text": "updates, MiniLM",
}
SKIPPED = {"dense", "vera"}  # holds every matrix; its error is that of its random frozen pair
DIAGONAL_CIRCULANT = ["diagonal", {"name": "circulant", "form": "single"}]
# As FAMILIES: budget in multiples of d, at most, -> options.
MORE: dict[str, dict[int, dict]] = {
    "phm": {4: {"n": 4, "rank": 1}, 8: {"n": 4, "rank": 3}},
    "sum": {4: {"terms": [{"name": "low_rank", "rank": 1}, "circulant"]},
            8: {"terms": [{"name": "low_rank", "rank": 3}, "circulant"]}},
    "product": {2 * k: {"factors": k * DIAGONAL_CIRCULANT} for k in (1, 2, 4)},
}  # fmt: skip
SCALED = {
    "circulant": "block_size",
    "block_circulant": "block_size",
    "block_diagonal": "blocks",
}  # options that are d / b
WIDE = {"tensor_train": {2: {"rank": 4}, 4: {"rank": 6}, 8: {"rank": 9}}}  # ranks that the budgets allow MiniLM's width
BEGIN, END = "<!-- table: written by approximation.py -->", "<!-- end of table -->"
PAGE = """# Approximation errors of structured matrices

||T - M|| / ||T|| of the closest M that `veneer.project` found, mean over the matrices T of a kind; a star: not all
searches had converged. Budgets are trained parameters in multiples of d, at most; a matrix is d x d, 64 x 64 but for
MiniLM's, 384 x 384 (a butterfly of which is padded to 512, and takes 25 d). Made by examples/python/approximation.py,
which says what the targets are.

"""
QUICK = ["low_rank", "toeplitz", "circulant", "low_displacement_rank"]


def options(family: str, budget: int, d: int) -> dict:
    """A family's options at d x d."""
    if d != WIDTH and budget in WIDE.get(family, {}):
        return WIDE[family][budget]
    given = (FAMILIES | MORE)[family][budget]
    return {key: value * d // WIDTH if key == SCALED.get(family) else value for key, value in given.items()}


def noise(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)


def toeplitz_like(generator: torch.Generator) -> torch.Tensor:
    """Z_1(g) Z_-1(h) + Z_1(g') Z_-1(h')."""
    vectors = torch.randn(2, 2, WIDTH, generator=generator, dtype=torch.float64)
    i = torch.arange(WIDTH)
    shift = (i[:, None] - i) % WIDTH
    sign = torch.where(i[:, None] >= i, 1.0, -1.0).double()
    return sum(g[shift] @ (h[shift] * sign) for g, h in vectors)


def picture_updates(arguments: argparse.Namespace) -> list[torch.Tensor]:
    """Of all query and value weights, trained without restriction."""
    folder = base_folder(arguments.cache, arguments.data, arguments.base_epochs, lambda *_: None)
    base, task = load_base(folder), load_task(arguments.data, arguments.task)
    model = adapted(base, {"name": "dense"}, task.classes, 0)
    train(model, task.train, arguments.steps, 1e-3, 0)
    return updates(model, base)


def text_updates(arguments: argparse.Namespace) -> list[torch.Tensor]:
    """Of MiniLM's first and last block, from trec.py's run of full fine-tuning, which is made if it is not there."""
    folder = arguments.trec / "full-0"
    line = run_arguments(arguments.data / "trec", arguments.trec, "full", 0, torch.get_num_threads())
    if not (folder / "metrics.json").is_file() and text_classification.main(line):
        raise UserError("[text_classification] the run of full fine-tuning failed")
    after = load_file(folder / "model" / "model.safetensors")
    before = load_file(model_folder("minilm") / "model.safetensors")
    names = [f"encoder.layer.{i}.attention.self.{part}.weight" for i in (0, 5) for part in ("query", "value")]
    return [after[f"encoder.{name}"].double() - before[name].double() for name in names]


def targets(kind: str, arguments: argparse.Namespace) -> list[torch.Tensor]:
    """Matrices [d, d] of a kind, float64."""
    if kind in ("update", "text"):
        found = (picture_updates if kind == "update" else text_updates)(arguments)
        return found[: arguments.matrices] if arguments.matrices else found
    generator = torch.Generator().manual_seed(0)
    return [(noise if kind == "noise" else toeplitz_like)(generator) for _ in range(arguments.matrices or 4)]


def study(path: Path, arguments: argparse.Namespace) -> dict:
    """Relative errors by "kind family budget"; done ones are kept."""
    names = ("task", "steps", "base_epochs", "iterations", "restarts", "matrices")
    settings = {name: getattr(arguments, name) for name in names}
    results = read(path) or {"settings": settings, "runs": {}}
    if results["settings"] != settings:
        raise DataError(f"[--out] {path} is of another study: {results['settings']}. Choose another --out")
    results["where"] = {"cpu": processor(), "torch": torch.__version__, "veneer": veneer.__version__}
    have = [(f, b) for f, b in entries(list(FAMILIES)) if f in FAMILIES and f not in SKIPPED]
    have += [(f, b) for f, row in MORE.items() for b in row]
    wanted = [(f, b) for f, b in have if f in (arguments.families or [f])]
    for kind in arguments.kinds:
        missing = [(f, b) for f, b in wanted if f"{kind} {f} {b}" not in results["runs"]]
        matrices = targets(kind, arguments) if missing else []
        for family, budget in tqdm(missing, desc=KINDS[kind], disable=None):
            start = time.perf_counter()
            limits = {"max_iterations": arguments.iterations, "restarts": arguments.restarts}
            matrix = {"name": family, **options(family, budget, len(matrices[0]))}
            found = [veneer.project(matrix, m, **limits) for m in matrices]
            results["runs"][f"{kind} {family} {budget}"] = {
                "error": round(statistics.mean(f.relative_error for f in found), 5),
                "parameters": found[0].parameters,
                "d": len(matrices[0]),
                "converged": all(f.converged for f in found),
                "seconds": round(time.perf_counter() - start, 2),
            }
            write(path, results)
    return results


def render(results: dict, out: Path) -> None:
    """The page's table, and the plot; what else the page says stays."""
    rows = [(*key.split(), row) for key, row in results["runs"].items()]
    kinds = [kind for kind in KINDS if kind in {k for k, *_ in rows}]
    lines = [
        f"| matrix | budget | {' | '.join(KINDS[kind] for kind in kinds)} |",
        "|---|---:|" + "---:|" * len(kinds),
    ]
    for family, budget in dict.fromkeys((f, b) for _, f, b, _ in rows):
        of = {kind: row for kind, f, b, row in rows if (f, b) == (family, budget)}
        cells = [f"{of[k]['error']:.3f}{'' if of[k]['converged'] else '*'}" if k in of else "" for k in kinds]
        lines.append(f"| {family.replace('_', ' ')} | {budget} d | {' | '.join(cells)} |")
    page = out.with_suffix(".md")
    text = (
        page.read_text()
        if page.is_file()
        else f"{PAGE}{BEGIN}\n{END}\n\n![errors against parameters]({out.name}.png)\n"
    )
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text("\n".join([before + BEGIN, *lines, END + after]))
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(3 + 4 * len(kinds), 5.5), sharex=True, sharey=True, squeeze=False
    )
    families = list(dict.fromkeys(f for _, f, _, _ in rows))
    for axis, kind in zip(axes[0], kinds, strict=True):
        for i, family in enumerate(families):
            points = sorted(
                (row["parameters"] / row["d"], row["error"]) for k, f, _, row in rows if (k, f) == (kind, family)
            )
            style = {"color": plt.cm.tab20(i % 20), "marker": "os^Dv<>P"[i % 8], "markersize": 5, "linewidth": 1.2}
            axis.plot([x for x, _ in points], [y for _, y in points], label=family.replace("_", " "), **style)
        axis.set(title=KINDS[kind], xlabel="parameters / d", ylim=(0, 1.03))
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("relative error")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    figure.set_layout_engine("constrained")
    figure.savefig(out.with_suffix(".png"), dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, usual = parser.add_argument, Protocol()
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets (%(default)s)")
    add("--out", type=Path, default=ROOT / "docs" / "results" / "approximation", help="of .json, .md and .png")
    add("--cache", type=Path, default=ROOT / "build" / "images", help="folder of the base model (%(default)s)")
    add("--trec", type=Path, default=ROOT / "build" / "trec", help="folder of trec.py's runs (%(default)s)")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of targets (%(default)s)")
    add("--families", nargs="+", choices=[f for f in FAMILIES | MORE if f not in SKIPPED], help="default: all")
    add("--task", default="omniglot", help="whose picture updates (%(default)s)")
    add("--steps", type=int, default=usual.steps, help="of training for the picture updates (%(default)s)")
    add("--base-epochs", type=int, default=usual.base_epochs, help="of the base (%(default)s)")
    add("--matrices", type=int, default=0, help="of each kind, at most; 0: four, and all updates")
    add("--iterations", type=int, default=500, help="of veneer.project for a start (%(default)s)")
    add("--restarts", type=int, default=3, help="starts of veneer.project (%(default)s)")
    add("--threads", type=int, default=1, help="(%(default)s)")
    add(
        "--quick",
        action="store_true",
        help="few families, one matrix of a kind, one start, a base of one epoch; no MiniLM",
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.families = arguments.families or QUICK
        arguments.kinds = [kind for kind in arguments.kinds if kind != "text"]
        arguments.steps, arguments.base_epochs, arguments.matrices = 2, 1, 1
        arguments.iterations, arguments.restarts = 50, 1
    torch.set_num_threads(arguments.threads)
    errors = (DataError, StudyError, UserError)
    return finish(arguments.out, False, lambda path: study(path, arguments), render, errors)


if __name__ == "__main__":
    sys.exit(main())
