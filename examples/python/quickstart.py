# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Veneer in two minutes, on a CPU and without network: a small vision transformer learns the handwritten digits 0 to 4,
is frozen, and is then adapted to the digits 5 to 9 in five ways.

    python examples/python/quickstart.py --output build/quickstart

writes, below the output folder: metrics.json, accuracy.png, digits.csv (the data with its splits), base/ (the frozen
model, as transformers saves it) and adapters/<name>/ (adapter_config.json and adapter_model.safetensors, HF PEFT's
files). Results depend on --seed alone, up to the rounding of another CPU.
"""

import argparse
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads sleep: on a busy machine spinning ones cost minutes

import torch
from quickstart_report import plot, table
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

from veneer import BottleneckConfig, LoraConfig, PeftModel, SurmConfig, get_peft_model

HEAD = ["classifier"]  # the new head is trained whole and saved with each adapter
ADAPTERS = {
    "lora": LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", modules_to_save=HEAD),
    "circulant": SurmConfig(structure="circulant", target_modules="all-linear", modules_to_save=HEAD),
    "bottleneck": BottleneckConfig(reduction_factor=8, placement="houlsby", modules_to_save=HEAD),
}
# One protocol for all: AdamW, one-cycle schedule, batches of 64, equal epochs. Only the peak learning rate differs: the
# best of RATES on a fifth of the training images, of equals the smallest (--tune shows them; no test image is used).
RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
LEARNING_RATE = {"linear_probe": 1e-1, "full": 3e-3, "lora": 1e-3, "circulant": 3e-3, "bottleneck": 3e-2}
BATCH = 64

Data = tuple[Tensor, Tensor]  # images [n, 1, 8, 8] in -1..1, labels [n] in 0..4
console = Console()


def write_digits(path: Path, seed: int) -> None:
    """Writes scikit-learn's 1,797 handwritten digits: p0..p63 (0 to 16), label, split; 30 % are test images."""
    digits = load_digits()
    old = digits.target < 5
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*(f"p{i}" for i in range(64)), "label", "split"])
        for name, chosen in (("base", old), ("new", ~old)):
            pixels, labels = digits.data[chosen].astype(int), digits.target[chosen]
            parts = train_test_split(pixels, labels, test_size=0.3, random_state=seed, stratify=labels)
            for split, x, y in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
                rows.writerows([*image, label, f"{name}_{split}"] for image, label in zip(x, y, strict=True))


def read_digits(path: Path) -> dict[str, Data]:
    """The splits of digits.csv, ready for the model: pixels from -1 to 1, digits 5 to 9 as labels 0 to 4."""
    found: dict[str, tuple[list, list]] = {}
    with path.open(newline="") as file:
        for row in list(csv.reader(file))[1:]:
            images, labels = found.setdefault(row[65], ([], []))
            images.append([int(pixel) / 8 - 1 for pixel in row[:64]])
            labels.append(int(row[64]) % 5)
    return {split: (torch.tensor(x).reshape(-1, 1, 8, 8), torch.tensor(y)) for split, (x, y) in found.items()}


def new_model() -> nn.Module:
    """A vision transformer of 0.3 million parameters: 16 patches of 2 x 2 pixels."""
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=5,
        )
    )


def adapted(base: nn.Module, method: str, seed: int) -> nn.Module:
    """A copy of the base with a fresh head, ready to be trained with one method."""
    model = copy.deepcopy(base)
    torch.manual_seed(seed)
    model.classifier.reset_parameters()
    if method in ADAPTERS:
        return get_peft_model(model, ADAPTERS[method])
    model.requires_grad_(method == "full")
    model.classifier.requires_grad_(True)
    return model


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(pixel_values=images).logits, labels)


def train(model: nn.Module, data: Data, rate: float, epochs: int, seed: int, progress: Progress, title: str) -> None:
    """The same training loop for every method, the base included."""
    images, labels = data
    optimizer = torch.optim.AdamW(trained(model), lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    order = torch.Generator().manual_seed(seed)
    model.train()
    task = progress.add_task(f"{title:<22}", total=steps, loss="")
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=order).split(BATCH):
            loss = loss_of(model, images[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, loss=f"loss {loss.item():.3f}")


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    return model.eval()(pixel_values=images).logits.argmax(1)


def accuracy(model: nn.Module, data: Data) -> float:
    return (predictions(model, data[0]) == data[1]).double().mean().item()


def kept_for_backward(model: nn.Module, data: Data) -> float:
    """MiB that autograd keeps between forward and backward for one batch. Exact: every saved tensor passes the hook; a
    storage counts once, and parameters, which are there anyway, do not count."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model.train(), data[0][:BATCH], data[1][:BATCH])
    del loss  # held until here, so that no address is used twice
    return sum(kept.values()) / 2**20


def step_times(models: dict[str, nn.Module], data: Data, rounds: int) -> dict[str, float]:
    """Median milliseconds of a training step (forward, backward, AdamW). The methods take turns, so that whatever else
    the machine does falls on all of them alike. The learning rate is 0: the models stay as they are."""
    images, labels = data[0][:BATCH], data[1][:BATCH]
    times: dict[str, list[float]] = {name: [] for name in models}
    optimizers = {name: torch.optim.AdamW(trained(model.train()), lr=0.0) for name, model in models.items()}
    for _ in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            loss_of(model, images, labels).backward()
            optimizers[name].step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values[2:]) for name, values in times.items()}  # without the two rounds of warm-up


def check(output: Path) -> bool:
    """Loads the base and every adapter from disk and compares their predictions with those that the training process
    wrote down. Run in a process of its own, which shares nothing with that one but the files."""
    expected = json.loads((output / "predictions.json").read_text())
    images, _ = read_digits(output / "digits.csv")["new_test"]
    good = True
    for name in ADAPTERS:
        base = ViTForImageClassification.from_pretrained(output / "base")
        model = PeftModel.from_pretrained(base, output / "adapters" / name)
        same = sum(a == b for a, b in zip(predictions(model, images).tolist(), expected[name], strict=True))
        good &= same == len(images)
        size = sum(file.stat().st_size for file in (output / "adapters" / name).iterdir())
        console.print(f"  {name:<12} {same} of {len(images)} predictions the same, {size / 1024:.0f} KiB on disk")
    return good


def tune(base: nn.Module, data: Data, arguments: argparse.Namespace, progress: Progress) -> None:
    """Prints the accuracy of every method and rate on a fifth of the training images, trained on the rest."""
    parts = train_test_split(*data, test_size=0.2, random_state=arguments.seed, stratify=data[1])
    for name in LEARNING_RATE:
        for rate in RATES:
            model = adapted(base, name, arguments.seed)
            train(model, (parts[0], parts[2]), rate, arguments.epochs, arguments.seed, progress, f"{name} {rate:g}")
            progress.console.print(f"{name:<12} {rate:<6g} {100 * accuracy(model, (parts[1], parts[3])):.1f} %")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=Path("build/quickstart"), help="folder for everything (%(default)s)")
    add("--seed", type=int, default=0, help="of splits, weights and batches (%(default)s)")
    add("--epochs", type=int, default=30, help="for adapting (%(default)s)")
    add("--base-epochs", type=int, default=30, help="for the base (%(default)s)")
    add("--rounds", type=int, default=20, help="timed steps of each method (%(default)s)")
    add("--threads", type=int, default=0, help="0: as torch decides")
    add("--fast", action="store_true", help="one epoch, three rounds: to see that it runs")
    add("--tune", action="store_true", help="only compare learning rates, on a part of the training images")
    add("--check", action="store_true", help="only load the adapters of an earlier run and compare their predictions")
    arguments = parser.parse_args()
    output: Path = arguments.output
    disable_progress_bar()  # transformers' own, for files that are read in no time
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.check:
        return 0 if check(output) else 1
    if arguments.fast:
        arguments.epochs, arguments.base_epochs, arguments.rounds = 1, 1, 3
    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    write_digits(output / "digits.csv", arguments.seed)
    data = read_digits(output / "digits.csv")

    models, metrics, predicted = {}, [], {}
    with Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        "{task.fields[loss]}",
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        torch.manual_seed(arguments.seed)
        base = new_model()
        train(base, data["base_train"], 2e-3, arguments.base_epochs, arguments.seed, progress, "base, digits 0 to 4")
        known = accuracy(base, data["base_test"])
        base.save_pretrained(output / "base")
        if arguments.tune:
            tune(base, data["new_train"], arguments, progress)
            return 0
        for name, rate in LEARNING_RATE.items():
            model = models[name] = adapted(base, name, arguments.seed)
            train(model, data["new_train"], rate, arguments.epochs, arguments.seed, progress, name)
            predicted[name] = predictions(model, data["new_test"][0]).tolist()
            if name in ADAPTERS:
                model.save_pretrained(output / "adapters" / name)
    times = step_times(models, data["new_train"], arguments.rounds)
    for name, model in models.items():
        metrics.append(
            {
                "name": name,
                "trainable": sum(p.numel() for p in trained(model)),
                "total": sum(p.numel() for p in model.parameters()),
                "accuracy": accuracy(model, data["new_test"]),
                "step_ms": times[name],
                "saved_mib": kept_for_backward(model, data["new_train"]),
            }
        )
    (output / "metrics.json").write_text(json.dumps({"methods": metrics}, indent=2) + "\n")
    (output / "predictions.json").write_text(json.dumps(predicted) + "\n")
    images = len(data["new_train"][1])
    plot(metrics, images, output / "accuracy.png")

    console.print(f"\nThe base knows the digits 0 to 4: {100 * known:.1f} % of its test images.\n")
    console.print(table(metrics, images, BATCH))
    console.print("\nThe adapters loaded in a second process:")
    good = subprocess.run([sys.executable, __file__, "--output", str(output), "--check"], check=False).returncode == 0
    if not good:
        console.print("[red]The second process predicts otherwise, or failed: please report this.[/red]")
        return 1
    console.print(
        Panel(
            f"Look at  {output}/accuracy.png, metrics.json and adapters/ (HF PEFT's files)\n"
            "Read     examples/python/quickstart.py: `adapted` is all that adapting takes\n"
            "Try      your own texts, with a pretrained model:\n"
            "         [bold]python examples/python/text_classification.py --model minilm \\\n"
            "             --method lora --data FILE_OR_FOLDER[/bold]\n"
            "         the same digits from C++, without Python: examples/cpp/README.md",
            title=f"Done in {time.perf_counter() - started:.0f} s. What next?",
            expand=False,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
