# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""SURM's claim on GLUE: up to 12 times fewer parameters inside adapters at equal quality.

    python examples/python/glue.py --out docs/results/glue --workers 2

adapts MiniLM to CoLA, STS-B, MRPC and RTE with every entry of CONTENDERS: first at several learning rates, judged on a
tenth held out of the training file, then at the best one with three seeds, judged on the dev file (CoLA, RTE) or the
labelled test file (STS-B, MRPC). Every finished run is in <out>.json at once; a study that was stopped goes on with the
same command. The tables of <out>.md and <out>.png are made from the JSON (--render makes only them). --quick shows in a
minute that all of it works.

On one thread of an AMD EPYC with AVX-512 a judged run of an adapter takes 200 s (CoLA), 130 s (STS-B), 165 s (RTE) or
140 s (MRPC), one that tries a learning rate 135, 85, 115 or 95 s; full fine-tuning takes twice as long. A contender with
all of its runs takes an hour, so the first four, which decide, four hours of one core. To that end not all of the
training examples train (see TASKS).
"""

from __future__ import annotations

import argparse
import hashlib
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
import transformers
from glue_data import TASKS, Rows, describe, load_task, score, tokenizer
from glue_report import render
from study import ROOT, StudyError, finish, read, study, tuned, where
from text_classification import batches, loader
from text_data import DataError
from text_models import Method, UserError, configuration, model_folder, pretrained, trained
from torch import nn
from transformers import DataCollatorWithPadding, get_scheduler

from veneer import BottleneckConfig, LoraConfig, SurmAdapterConfig, SurmConfig, get_peft_model

ATTENTION = {"target_modules": ["query", "value"]}


def bottleneck(size: int) -> Method:
    return Method(BottleneckConfig, {"bottleneck_size": size}, 3e-3)


def surm(structure: str) -> Method:
    return Method(SurmAdapterConfig, {"structure": structure}, 1e-2)


# Name -> method, with the middle one of the first learning rates. Both kinds of adapters stand at Houlsby's two places
# in every block. At d = 384 SURM's have 3d parameters each, the bottlenecks 2 d m + m + d: 1, 3 and 12 times as many.
# Those that decide the claim come first.
CONTENDERS: dict[str, Method] = {
    "linear_probe": Method(None, {}, 1e-2),
    "surm_circulant": surm("circulant"),
    "bottleneck_18": bottleneck(18),
    "bottleneck_1": bottleneck(1),
    "full": Method(None, {}, 1e-4),
    "lora": Method(LoraConfig, {"r": 8, "lora_alpha": 16, **ATTENTION}, 3e-3),
    "surm_symmetric_toeplitz": surm("symmetric_toeplitz"),
    "surm_kronecker": surm("kronecker"),
    "circulant_update": Method(SurmConfig, {"structure": "circulant", **ATTENTION}, 1e-2),
    "bottleneck_4": bottleneck(4),
}
RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
HEAD_RATE = 3e-3  # of the new head, whatever the contender; the linear probe alone has it tuned


@dataclass(frozen=True)
class Protocol:
    """All that is the same for every contender. Learning rates are tuned by one rule: a contender's middle rate and its
    neighbours in RATES, then the next of RATES as long as the best is at the edge of those tried."""

    epochs: int = 3
    batch: int = 16
    length: int = 128
    held_out: float = 0.1
    tuning_epochs: int = 2
    neighbours: int = 1
    more_rates: bool = True
    tuning_seeds: tuple[int, ...] = (100,)
    seeds: tuple[int, ...] = (0, 1, 2)
    weight_decay: float = 0.01
    warmup: float = 0.06
    shown: int = 0  # examples of each part of a task; 0: all


QUICK = Protocol(epochs=1, tuning_epochs=1, neighbours=0, more_rates=False, seeds=(0, 1), shown=8, batch=4)


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    contender: str
    stage: str  # "tune": judged on the part held out, "test": on the judged file
    rate: float
    seed: int

    @property
    def key(self) -> str:
        return f"{self.task} {self.contender} {self.stage} {self.rate:g} {self.seed}"


# One run --------------------------------------------------------------------------------------------------------------


def adapted(contender: str, outputs: int, seed: int) -> nn.Module:
    """MiniLM with a fresh head, ready to be trained."""
    method = CONTENDERS[contender]
    torch.manual_seed(seed)  # the head comes first, and is the same for all
    model, head = pretrained(model_folder("minilm"), [str(i) for i in range(outputs)], "mean")
    if method.config is not None:
        return get_peft_model(model, configuration(method, None, (), model, head))
    model.requires_grad_(contender == "full")
    model.classifier.requires_grad_(True)
    return model


def divided(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is trained in the encoder, and in the head."""
    parts: tuple[list, list] = ([], [])
    for name, parameter in trained(model).items():
        parts["classifier" in name].append(parameter)
    return parts


def count(contender: str) -> int:
    """Trained parameters without the head's, asked of the library."""
    return sum(parameter.numel() for parameter in divided(adapted(contender, 1, 0))[0])


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error of a score, cross-entropy of classes."""
    if logits.shape[1] == 1:
        return nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
    return nn.functional.cross_entropy(logits, labels)


def train(model: nn.Module, rows: Rows, protocol: Protocol, epochs: int, rate: float, seed: int) -> float:
    """Trains in place.

    Returns:
        the last epoch's mean loss.
    """
    encoder, head = divided(model)
    groups = [{"params": encoder, "lr": rate}, {"params": head, "lr": HEAD_RATE if encoder else rate}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=protocol.weight_decay)
    orders = [batches(rows, protocol.batch, seed=1000 * seed + epoch) for epoch in range(epochs)]
    steps = sum(map(len, orders))
    schedule = get_scheduler("linear", optimizer, round(protocol.warmup * steps), steps)
    collate = DataCollatorWithPadding(tokenizer())
    torch.manual_seed(seed)  # of dropout
    model.train()
    for order in orders:
        losses = []
        for batch in loader(rows, order, collate):
            labels = batch.pop("labels")
            loss = loss_of(model(**batch).logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_([*encoder, *head], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return statistics.mean(losses)


@torch.no_grad()
def judged(model: nn.Module, rows: Rows, task: str) -> float:
    """The task's metric."""
    model.eval()
    true, predicted = [], []
    for batch in loader(rows, batches(rows, 64), DataCollatorWithPadding(tokenizer())):
        true += batch.pop("labels").tolist()
        logits = model(**batch).logits
        predicted += (logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)).tolist()
    return score(task, true, predicted)


def perform(run: Run, protocol: Protocol, data: Path, threads: int) -> dict:
    """One run, in whichever process."""
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    start, used = time.perf_counter(), time.process_time()
    parts = load_task(data, run.task, protocol.length, protocol.held_out, TASKS[run.task].examples).first(
        protocol.shown
    )
    model = adapted(run.contender, max(1, len(TASKS[run.task].labels)), run.seed)
    tuned = run.stage == "tune"
    epochs = protocol.tuning_epochs if tuned else protocol.epochs
    loss = train(model, parts.train, protocol, epochs, run.rate, run.seed)
    result = judged(model, parts.held_out if tuned else parts.judged, run.task)
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    return {"score": round(result, 5), "loss": round(loss, 4)} | {key: round(value, 2) for key, value in times.items()}


# The study ------------------------------------------------------------------------------------------------------------


def wanted(protocol: Protocol, runs: dict[str, dict], task: str, contender: str) -> Iterator[Run]:
    """The runs that a contender still needs and that can be started now."""
    run = partial(Run, task, contender)
    middle = RATES.index(CONTENDERS[contender].learning_rate)
    missing, best = tuned(
        runs,
        RATES,
        middle - protocol.neighbours,
        middle + protocol.neighbours,
        protocol.more_rates,
        lambda rate: [run("tune", rate, seed) for seed in protocol.tuning_seeds],
        "score",
    )
    yield from missing or (r for seed in protocol.seeds if (r := run("test", best, seed)).key not in runs)


def opened(path: Path, protocol: Protocol, arguments: argparse.Namespace) -> dict:
    """The results so far, with model and data there and described."""
    results = read(path) or {"protocol": {}, "model": "", "data": {}, "counts": {}, "runs": {}}
    weights = hashlib.sha256((model_folder("minilm") / "model.safetensors").read_bytes()).hexdigest()[:16]
    now = json.loads(json.dumps(asdict(protocol) | {"head_rate": HEAD_RATE}))
    for what, before, after in (("protocol", results["protocol"], now), ("model", results["model"], weights)):
        if before and before != after:
            raise StudyError(
                f"[--out] {path} is of another {what}: expected {after}, got {before}; choose another --out"
            )
    for task in arguments.tasks:
        parts = load_task(arguments.data, task, protocol.length, protocol.held_out, TASKS[task].examples)
        found = describe(arguments.data, task, parts.first(protocol.shown))
        if results["data"].setdefault(task, found) != found:
            raise StudyError(
                f"[--data] {task} is not what the runs in {path} had: {results['data'][task]}, got {found}"
            )
    results |= {"protocol": now, "model": weights}
    results["counts"] |= {name: count(name) for name in arguments.contenders if name not in results["counts"]}
    results["where"] = where(workers=arguments.workers, threads=arguments.threads)
    return results


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known, add = list(CONTENDERS), parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets (%(default)s)")
    add("--out", type=Path, help="of .json, .md and .png (docs/results/glue; quick: build/glue/quick)")
    add("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    add("--contenders", nargs="+", default=known, choices=known, metavar="NAME", help=f"some of {', '.join(known)}")
    add("--workers", type=int, default=1, help="processes (%(default)s)")
    add("--threads", type=int, default=1, help="of each process (%(default)s)")
    add("--hours", type=float, default=float("inf"), help="start no further run after this time")
    add("--quick", action="store_true", help="a few steps on a few examples")
    add("--render", action="store_true", help="only write the page and the plot again")
    a = parser.parse_args(argv)
    protocol = QUICK if a.quick else Protocol()
    out: Path = a.out or (ROOT / "build" / "glue" / "quick" if a.quick else ROOT / "docs" / "results" / "glue")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    def done(path: Path) -> dict:
        results = opened(path, protocol, a)
        return study(
            path,
            results,
            [(task, name) for task in a.tasks for name in a.contenders],
            partial(wanted, protocol, results["runs"]),
            partial(perform, protocol=protocol, data=a.data, threads=a.threads),
            seeds=len(protocol.seeds),
            score="score",
            workers=a.workers,
            hours=a.hours,
        )

    return finish(out, a.render, done, partial(render, order=known), (StudyError, DataError, UserError))


if __name__ == "__main__":
    sys.exit(main())
