# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""SURM's claim on pictures: structured matrices against low rank at equal numbers of trained parameters.

    python examples/python/images.py --out docs/results/structured --cache build/images

pretrains a small vision transformer on five classes of CIFAR-10 and three alphabets of Omniglot, and adapts it to
classes it has not seen with every matrix of FAMILIES in the query and value of every block: first at several learning
rates, judged on validation pictures, then at the best one with five seeds, judged on the test pictures. Every finished
run is in <out>.json at once; a study that was stopped goes on with the same command. The tables of <out>.md and
<out>.png are made from the JSON (--render makes only them). --quick shows in a minute that all of it works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: on a busy machine spinning ones cost much

import torch
from image_data import SIZES, DataError, load_task
from image_models import (
    BATCH,
    WIDTH,
    accuracy,
    adapted,
    base_folder,
    describe_base,
    held,
    load_base,
    per_layer,
    train,
    updates,
)
from image_report import render
from study import ROOT, StudyError, finish, read, study, tuned, where
from tqdm import tqdm

import veneer

# Matrix -> budget in multiples of d trained parameters a layer -> options. `counted` holds every entry to its budget by
# what the library trains. Matrices that this build does not have are left out.
FAMILIES: dict[str, dict[int, dict]] = {
    "low_rank": {2: {"rank": 1}, 4: {"rank": 2}, 8: {"rank": 4}, 16: {"rank": 8}},
    "circulant": {  # the paper's product of two vectors; with one parameter for each place there is only one vector
        1: {"form": "single"},
        2: {"form": "product"},
        4: {"form": "product", "block_size": WIDTH // 2},
        8: {"form": "product", "block_size": WIDTH // 4},
    },
    # One vector for each block, C3A's; kappa = 1 puts its learning rate among the others'.
    "block_circulant": {b: {"block_size": WIDTH // b, "normalization": "none"} for b in (1, 2, 4, 8)},
    "skew_circulant": {1: {}},
    "symmetric_toeplitz": {1: {"form": "single"}, 2: {"form": "product"}},
    "toeplitz": {2: {}},
    "hankel": {2: {}},
    "low_displacement_rank": {2 * r: {"rank": r} for r in (1, 2, 4)},
    "kronecker": {2: {}},
    "tensor_train": {2: {"rank": 2}, 4: {"rank": 3}, 8: {"rank": 5}},
    "monarch": {2 * q: {"blocks": 4, "rank": q} for q in (1, 2, 4)},
    "butterfly": {16: {}},
    "diagonal": {1: {}},
    "block_diagonal": {b: {"blocks": WIDTH // b} for b in (2, 4, 8)},
    "vera": {2: {"rank": WIDTH}},
    "dense": {WIDTH: {}},
}
BASELINES = ("linear_probe", "full")
RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]


@dataclass(frozen=True)
class Protocol:
    """All that is the same for every family. Learning rates are tuned by one rule: those of `rates`, then the next of
    RATES as long as the best is at the edge of those tried."""

    base_epochs: int = 150
    steps: int = 200
    batch: int = BATCH
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    more_rates: bool = True
    tuning_seeds: tuple[int, ...] = (100,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    pictures: int = 0  # of each part of a task; 0: all


QUICK = Protocol(1, 2, BATCH, (1e-2,), False, (100,), (0, 1), 64)


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    family: str
    budget: int
    stage: str  # "tune": scored on validation pictures, "test": on the test's
    rate: float
    seed: int

    @property
    def entry(self) -> str:
        return f"{self.family} {self.budget}"

    @property
    def key(self) -> str:
        return f"{self.task} {self.entry} {self.stage} {self.rate:g} {self.seed}"


def matrix(family: str, budget: int) -> dict | str:
    return family if family in BASELINES else {"name": family, **FAMILIES[family][budget]}


def entries(families: list[str]) -> list[tuple[str, int]]:
    """(family, budget) of the baselines and of the matrices that this build has."""
    have = json.loads(veneer._core.registry())["matrices"]
    found = [(name, 0) for name in BASELINES if name in families]
    return found + [(name, b) for name, row in FAMILIES.items() if name in have and name in families for b in row]


def counted(base: torch.nn.Module, chosen: list[tuple[str, int]]) -> dict[str, float]:
    """Trained parameters of each adapted layer, asked of the library.

    Raises:
        StudyError: an entry that has more than its budget, or would fit a smaller one.
    """
    counts = {}
    for family, budget in chosen:
        count = counts[f"{family} {budget}"] = per_layer(adapted(base, matrix(family, budget), 2, 0))
        if family not in BASELINES and not budget / 2 < count / WIDTH <= budget:
            raise StudyError(f"[{family}] expected at most {budget} d = {budget * WIDTH} parameters, got {count:g}")
    return counts


def wanted(protocol: Protocol, runs: dict[str, dict], task: str, family: str, budget: int) -> Iterator[Run]:
    """The runs that an entry still needs and that can be started now."""
    run = partial(Run, task, family, budget)
    rates = [1e-2] if family == "linear_probe" else list(protocol.rates)  # the probe has the head's rate only
    missing, best = [], rates[0]
    if family != "linear_probe":
        missing, best = tuned(
            runs,
            RATES,
            RATES.index(rates[0]),
            RATES.index(rates[-1]),
            protocol.more_rates,
            lambda rate: [run("tune", rate, seed) for seed in protocol.tuning_seeds],
            "accuracy",
        )
    yield from missing or (r for seed in protocol.seeds if (r := run("test", best, seed)).key not in runs)


def perform(run: Run, protocol: Protocol, base_path: Path, data: Path) -> dict:
    """One run, in whichever process."""
    start = time.perf_counter()
    base, task = load_base(base_path), load_task(data, run.task)
    judged = task.validation if run.stage == "tune" else task.test
    part = task.train
    if protocol.pictures:
        part, judged = part.first(protocol.pictures), judged.first(protocol.pictures)
    model = adapted(base, matrix(run.family, run.budget), task.classes, run.seed)
    loss = train(model, part, protocol.steps, run.rate, run.seed)
    result = {"accuracy": round(accuracy(model, judged), 5), "loss": round(loss, 4)}
    if run.family == "dense" and run.stage == "test":
        shares = [held(update) for update in updates(model, base)]
        result["held"] = {kind: round(statistics.mean(s[kind] for s in shares), 4) for kind in shares[0]}
    return result | {"seconds": round(time.perf_counter() - start, 2)}


def opened(path: Path, protocol: Protocol, arguments: argparse.Namespace, families: list[str]) -> dict:
    """The results so far, with the base there and described."""
    results = read(path) or {"protocol": {}, "base": {}, "counts": {}, "runs": {}}
    now = json.loads(json.dumps(asdict(protocol) | {"sizes": SIZES}))
    if results["protocol"] not in ({}, now):
        differ = [
            f"{key} was {results['protocol'].get(key)}, is {now[key]}"
            for key in now
            if results["protocol"].get(key) != now[key]
        ]
        raise StudyError(f"[--out] {path} is of another study: {'; '.join(differ)}. Choose another --out")
    with tqdm(desc="base", unit="step", leave=False, disable=None) as bar:

        def progress(done: int, steps: int) -> None:
            bar.total = steps
            bar.update(done - bar.n)

        folder = base_folder(arguments.cache, arguments.data, protocol.base_epochs, progress)
    base = describe_base(folder, arguments.data)
    if results["base"] and results["base"]["sha256"] != base["sha256"]:
        raise StudyError(f"[--out] the runs in {path} are of another base than {folder}. Choose another --out")
    results |= {"protocol": now, "base": base, "width": WIDTH}
    results["counts"] |= counted(load_base(folder), entries(families))
    results["where"] = where(workers=arguments.workers)
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*BASELINES, *FAMILIES]
    add = parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets (%(default)s)")
    add("--out", type=Path, help="of .json, .md and .png (docs/results/structured; quick: build/images/quick)")
    add("--cache", type=Path, default=ROOT / "build" / "images", help="folder of the base model (%(default)s)")
    add("--tasks", nargs="+", default=list(SIZES), choices=SIZES)
    add("--families", nargs="+", default=known, choices=known, metavar="NAME", help=f"some of {', '.join(known)}")
    add("--workers", type=int, default=2, help="processes, of one thread each (%(default)s)")
    add("--hours", type=float, default=float("inf"), help="start no further run after this time")
    add("--quick", action="store_true", help="a few steps on a few pictures")
    add("--render", action="store_true", help="only write the page and the plot again")
    a = parser.parse_args(argv)
    protocol = QUICK if a.quick else Protocol()
    out: Path = a.out or (ROOT / "build" / "images" / "quick" if a.quick else ROOT / "docs" / "results" / "structured")

    def done(path: Path) -> dict:
        results = opened(path, protocol, a, a.families)
        torch.set_num_threads(1)
        return study(
            path,
            results,
            [(task, *entry) for task in a.tasks for entry in entries(a.families)],
            partial(wanted, protocol, results["runs"]),
            partial(perform, protocol=protocol, base_path=a.cache / f"base-{protocol.base_epochs}", data=a.data),
            seeds=len(protocol.seeds),
            score="accuracy",
            workers=a.workers,
            hours=a.hours,
        )

    return finish(out, a.render, done, partial(render, order=known), (StudyError, DataError))


if __name__ == "__main__":
    sys.exit(main())
