# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""MiniLM on TREC's six question types: the runs behind docs/results/trec.md.

    python examples/python/trec.py --data ../shared/data/trec

runs text_classification.py for every method and seed (a run that was stopped is resumed, one that is complete is not
repeated), times a training step of every method side by side, and writes docs/results/trec.json, trec.png and the table
in trec.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy
import text_classification
import torch
import transformers
from matplotlib.figure import Figure
from text_data import Columns, load, sorted_labels
from text_models import METHODS, build, model_folder, trained
from tqdm import tqdm
from transformers import AutoTokenizer, DataCollatorWithPadding

import veneer

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = {"linear_probe": 10}  # cheap, and slower to settle
DEFAULT_EPOCHS = 5
NAMES = {"linear_probe": "linear probe", "full": "full fine-tuning", "lora": "LoRA, r = 8", "surm": "SURM circulant"}


def run_arguments(data: Path, output: Path, method: str, seed: int, threads: int) -> list[str]:
    """The command line of one run."""
    epochs = EPOCHS.get(method, DEFAULT_EPOCHS)
    return [
        *("--data", str(data), "--files", "*.all", "--model", "minilm", "--method", method, "--seed", str(seed)),
        *("--epochs", str(epochs), "--patience", "0", "--threads", str(threads)),
        *("--output", str(output / f"{method}-{seed}"), "--resume"),
    ]


def step_times(data: Path, methods: list[str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of training steps (forward, backward, clipping, AdamW) on the same batches of 32 questions. The
    methods take turns, so that whatever else the machine does falls on all of them alike."""
    splits, _ = load(data, Columns(), pattern="*.all")
    labels, folder = sorted_labels(e.label for e in splits["train"]), model_folder("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = text_classification.encode(splits["train"], labels, tokenizer, 128)
    order = text_classification.batches(rows, 32, seed=0)[: rounds + 2]
    models = {method: build(folder, labels, method).train() for method in methods}
    optimizers = {method: torch.optim.AdamW(trained(model).values(), lr=1e-5) for method, model in models.items()}
    times: dict[str, list[float]] = {method: [] for method in methods}
    loader = text_classification.loader(rows, order, DataCollatorWithPadding(tokenizer))
    for batch in tqdm(loader, desc="timing", total=len(order), leave=False, disable=None):
        target = batch.pop("labels")
        for method, model in models.items():
            start = time.perf_counter()
            torch.nn.functional.cross_entropy(model(**batch).logits, target).backward()
            torch.nn.utils.clip_grad_norm_(trained(model).values(), 1.0)
            optimizers[method].step()
            optimizers[method].zero_grad()
            times[method].append(1e3 * (time.perf_counter() - start))
    return {method: values[2:] for method, values in times.items()}  # two rounds of warm-up


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def table(results: dict) -> str:
    """The page's table, in Markdown."""
    lines = [
        "| method | trained parameters | learning rate | epochs | test accuracy, % | macro F1, % | ms per step |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, row in results["methods"].items():
        accuracy, f1 = ([100 * run["test"][key] for run in row["runs"]] for key in ("accuracy", "macro_f1"))
        step = f"{statistics.median(row['step_ms']):.0f}"
        lines.append(
            f"| {NAMES.get(method, method)} | {row['trainable']:,} | {row['learning_rate']:g} | {row['epochs']} | "
            f"{spread(accuracy)} | {spread(f1)} | {step} |"
        )
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Accuracy of every seed, and the mean, against trained parameters."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for method, row in results["methods"].items():
        color = "#8a8a8a" if method in ("linear_probe", "full") else "#b5651d"
        scores = [100 * run["test"]["accuracy"] for run in row["runs"]]
        axes.scatter([row["trainable"]] * len(scores), scores, s=18, color=color, alpha=0.5, zorder=2, linewidth=0)
        mean = statistics.mean(scores)
        axes.scatter(row["trainable"], mean, s=80, color=color, edgecolor="white", zorder=3)
        text = f"{NAMES.get(method, method)}\n{mean:.1f} %"
        offset = (0, -12 - 2 * (mean - min(scores)))
        axes.annotate(
            text, (row["trainable"], min(scores)), offset, textcoords="offset points", ha="center", va="top", fontsize=9
        )
    counts = [row["trainable"] for row in results["methods"].values()]
    axes.set(
        xscale="log", xlim=(min(counts) / 3, max(counts) * 4), xlabel="trained parameters", ylabel="test accuracy, %"
    )
    axes.margins(y=0.25)
    axes.set_title("MiniLM on TREC, six question types: each seed, and the mean", fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data" / "trec", help="folder with TREC.{train,test}.all")
    add("--output", type=Path, default=ROOT / "build" / "trec", help="folder of the runs (%(default)s)")
    add("--methods", nargs="+", default=list(NAMES), choices=METHODS)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--threads", type=int, default=2)
    add("--rounds", type=int, default=40, help="timed steps of each method (%(default)s)")
    add("--page", type=Path, default=ROOT / "docs" / "results" / "trec.md", help="whose table is renewed (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    methods: dict[str, dict] = {}
    for seed in arguments.seeds:
        for method in arguments.methods:
            line = run_arguments(arguments.data, arguments.output, method, seed, arguments.threads)
            print("text_classification.py", *line, flush=True)
            if code := text_classification.main(line):
                return code
            run = json.loads((arguments.output / f"{method}-{seed}" / "metrics.json").read_text())
            row = methods.setdefault(method, {"trainable": run["trainable"], "total": run["total"], "runs": []})
            row |= {key: float(run["arguments"][key]) for key in ("learning_rate",)} | {"epochs": len(run["history"])}
            row["runs"].append({key: run[key] for key in ("seed", "best_epoch", "validation", "test", "train_seconds")})
    timing = arguments.output / "step_ms.json"
    if not timing.is_file():
        timing.write_text(json.dumps(step_times(arguments.data, arguments.methods, arguments.rounds)))
    times = json.loads(timing.read_text())
    for method, row in methods.items():
        row["step_ms"] = [round(value, 2) for value in times[method]]
    results = {
        "methods": methods,
        "date": date.today().isoformat(),
        "cpu": cpu(),
        "threads": arguments.threads,
        "versions": {module.__name__: module.__version__ for module in (veneer, torch, transformers, numpy)},
        "python": platform.python_version(),
    }
    page: Path = arguments.page
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, page.with_suffix(".png"))
    begin, end = "<!-- table: written by trec.py -->", "<!-- end of table -->"
    text = page.read_text() if page.is_file() else f"{begin}\n{end}\n"
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n{table(results)}\n{end}{after}")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
