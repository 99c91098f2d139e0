# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Four tasks of GLUE for glue.py: their files, what is held out of the training file, and GLUE's metric of each.

Scores of STS-B, 0 to 5, become numbers from -1 to 1. Quote characters of the tab-separated files are plain text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.model_selection import train_test_split
from text_classification import encode
from text_data import SPLIT_SEED, Columns, DataError, Example, read_file
from text_models import model_folder
from transformers import AutoTokenizer

Rows = list[dict[str, Any]]
HIGHEST = 5.0  # of STS-B's scores


def spearman(true: list[float], predicted: list[float]) -> float:
    """0, not NaN, where a model says the same of every pair."""
    value = float(spearmanr(true, predicted).statistic)
    return 0.0 if math.isnan(value) else value


@dataclass(frozen=True)
class Task:
    """Where a task is and how it is judged. No labels: a score is predicted."""

    title: str
    folder: str
    train: str
    judged: str
    part: str  # what the judged file is
    labels: tuple[str, ...]
    columns: Columns
    metric_name: str
    metric: Callable[[list, list], float]
    examples: int  # that train, at most (0: all), fewest where they are longest


TASKS = {  # those with most examples first
    "cola": Task(
        "CoLA", "glue_cola", "train.tsv", "dev.tsv", "dev", ("0", "1"), Columns("1", ["3"]), "MCC", matthews_corrcoef, 0,
    ),
    "stsb": Task(
        "STS-B", "glue_stsb", "stsb-en-train.csv", "stsb-en-test.csv", "test", (),
        Columns("2", ["0", "1"]), "Spearman", spearman, 2000,
    ),
    "mrpc": Task(
        "MRPC", "glue_mrpc", "train.tsv", "test.tsv", "test", ("0", "1"),
        Columns("Quality", ["#1 String", "#2 String"]), "F1", partial(f1_score, zero_division=0), 1000,
    ),
    "rte": Task(
        "RTE", "glue_rte", "train.tsv", "dev.tsv", "dev", ("not_entailment", "entailment"),
        Columns("label", ["sentence1", "sentence2"]), "accuracy", accuracy_score, 1000,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Token ids and labels, not yet padded."""

    train: Rows
    held_out: Rows
    judged: Rows

    def first(self, count: int) -> Parts:
        """At most `count` of each; 0: all."""
        return self if not count else Parts(self.train[:count], self.held_out[:count], self.judged[:count])


def target(task: Task, example: Example) -> int | float:
    """The number of the label, or the score."""
    if task.labels:
        if example.label not in task.labels:
            expected = " or ".join(task.labels)
            raise DataError(f"[data] {example.place}: expected {expected} as label, got {example.label!r}")
        return task.labels.index(example.label)
    try:
        score = float(example.label)
    except ValueError:
        score = math.nan
    if not 0 <= score <= HIGHEST:
        raise DataError(
            f"[data] {example.place}: expected a score from 0 to {HIGHEST:g} as label, got {example.label!r}"
        )
    return 2 * score / HIGHEST - 1


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(model_folder("minilm"))


def rows_of(task: Task, path: Path, length: int) -> Rows:
    """The examples of a file in order."""
    examples = read_file(path, task.columns)
    targets = [target(task, example) for example in examples]
    rows = encode([replace(example, label="") for example in examples], [""], tokenizer(), length)
    return [row | {"labels": value} for row, value in zip(rows, targets, strict=True)]


@cache
def load_task(data: Path, name: str, length: int, held_out: float, limit: int) -> Parts:
    """One task's parts. The training file is divided alike for every seed, by label where there are labels; of what is
    left at most `limit` examples train (0: all), drawn in the same way."""
    task = TASKS[name]
    rows = rows_of(task, data / task.folder / task.train, length)

    def divided(rows: Rows, size: int) -> list[Rows]:
        by = [row["labels"] for row in rows] if task.labels else None
        return train_test_split(rows, test_size=size, random_state=SPLIT_SEED, stratify=by)

    train, held = divided(rows, round(held_out * len(rows)))
    if limit and limit < len(train):
        train = divided(train, limit)[1]
    return Parts(train, held, rows_of(task, data / task.folder / task.judged, length))


def describe(data: Path, name: str, parts: Parts) -> dict:
    """What the results say of their data; the hash tells other files apart."""
    task, digest = TASKS[name], hashlib.sha256()
    for file in (task.train, task.judged):
        digest.update((data / task.folder / file).read_bytes())
    counts = {part: len(getattr(parts, part)) for part in ("train", "held_out", "judged")}
    return {**counts, "part": task.part, "sha256": digest.hexdigest()[:16]}


def score(name: str, true: list, predicted: list) -> float:
    """The task's metric."""
    return float(TASKS[name].metric(true, predicted))
