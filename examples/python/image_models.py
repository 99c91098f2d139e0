# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of images.py: its pretraining, its adaptation, the one training loop for all, and how much of
an unrestricted update each kind of matrix could hold."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from image_data import Part, augmented, base_parts
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification
from transformers.utils.logging import disable_progress_bar

from veneer import AdditiveConfig, PeftModel, get_peft_model

WIDTH = 64  # d: a power of two, so that every matrix fits
BLOCKS = 4
TARGETS = ["q_proj", "v_proj"]  # of every block, as in the paper
LAYERS = BLOCKS * len(TARGETS)
BATCH = 64
HEAD_RATE = 1e-2  # the new head's, for every method
BASE_RATE, BASE_WEIGHT_DECAY, BASE_SMOOTHING = 2e-3, 0.05, 0.1
WARMUP = 0.1  # fraction of the steps; then half a cosine down to zero

Progress = Callable[[int, int], None]  # steps done, of how many


def new_model(classes: int) -> nn.Module:
    """A vision transformer of 0.15 million parameters: 16 patches of 8 x 8 pixels."""
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=4,
            intermediate_size=2 * WIDTH,
            image_size=32,
            patch_size=8,
            num_channels=3,
            num_labels=classes,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(
    model: nn.Module,
    part: Part,
    steps: int,
    rate: float,
    seed: int,
    *,
    head_rate: float = HEAD_RATE,
    weight_decay: float = 0.0,
    smoothing: float = 0.0,
    progress: Progress = lambda _done, _steps: None,
) -> float:
    """AdamW on batches of augmented pictures; the seed alone sets order, shifts and flips.

    Returns:
        the mean loss of the last tenth of the steps.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in trained(model).items():
        groups["classifier" in name].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[True], "lr": head_rate}, {"params": groups[False], "lr": rate}], weight_decay=weight_decay
    )
    warmup = max(1, round(WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    model.train()
    while len(losses) < steps:
        for chosen in torch.randperm(len(part), generator=generator).split(BATCH):
            if len(losses) == steps:
                break
            logits = model(pixel_values=augmented(part, chosen, generator)).logits
            loss = nn.functional.cross_entropy(logits, part.labels[chosen], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress(len(losses), steps)
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


@torch.no_grad()
def accuracy(model: nn.Module, part: Part) -> float:
    """From 0 to 1."""
    model.eval()
    predicted = torch.cat([model(pixel_values=images).logits.argmax(1) for images in part.images.split(250)])
    return (predicted == part.labels).double().mean().item()


# The base -------------------------------------------------------------------------------------------------------------


def base_folder(cache_folder: Path, data: Path, epochs: int, progress: Progress) -> Path:
    """The folder of the pretrained model, trained now where it is not there yet. One thread: its sums are the same
    wherever it is made, as far as processors agree."""
    folder = cache_folder / f"base-{epochs}"
    if (folder / "model.safetensors").is_file():
        return folder
    classes, part, _ = base_parts(data)
    torch.manual_seed(0)
    model = new_model(classes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = epochs * -(-len(part) // BATCH)
    options = {"head_rate": BASE_RATE, "weight_decay": BASE_WEIGHT_DECAY, "smoothing": BASE_SMOOTHING}
    train(model, part, steps, BASE_RATE, 0, progress=progress, **options)
    torch.set_num_threads(threads)
    unfinished = folder.with_suffix(".part")
    model.save_pretrained(unfinished)
    os.replace(unfinished, folder)
    return folder


@cache
def load_base(folder: Path) -> nn.Module:
    disable_progress_bar()  # transformers' own, for files that are read in no time
    return ViTForImageClassification.from_pretrained(folder)


def describe_base(folder: Path, data: Path) -> dict:
    """What the results say of their base; the hash tells another base apart."""
    model = load_base(folder)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    scores = {name: round(accuracy(model, part), 4) for name, part in base_parts(data)[2].items()}
    return {"sha256": digest, "parameters": sum(p.numel() for p in model.parameters()), "accuracy": scores}


# Adapting -------------------------------------------------------------------------------------------------------------


def adapted(base: nn.Module, matrix: dict | str, classes: int, seed: int) -> nn.Module:
    """A copy of the base with a fresh head, ready to be trained: `linear_probe`, `full`, or a matrix for TARGETS."""
    model = copy.deepcopy(base)
    torch.manual_seed(seed)  # the head comes first, and is the same for all
    model.classifier = nn.Linear(WIDTH, classes)
    if isinstance(matrix, str):
        model.requires_grad_(matrix == "full")
        model.classifier.requires_grad_(True)
        return model
    return get_peft_model(model, AdditiveConfig(matrix=matrix, target_modules=TARGETS, modules_to_save=["classifier"]))


def per_layer(model: nn.Module) -> float:
    """Trained parameters, the head's left out, of each of the adapted layers; of an unadapted model: in all."""
    head = sum(parameter.numel() for name, parameter in trained(model).items() if "classifier" in name)
    if isinstance(model, PeftModel):
        return (model.get_nb_trainable_parameters()[0] - head) / LAYERS
    return sum(parameter.numel() for parameter in trained(model).values()) - head


def updates(model: nn.Module, base: nn.Module) -> list[Tensor]:
    """What training added to each adapted weight, in float64."""
    before = dict(base.named_modules())
    merged = copy.deepcopy(model).merge_and_unload()
    pairs = [(m.weight, before[n].weight) for n, m in merged.named_modules() if n.rpartition(".")[2] in TARGETS]
    return [(new - old).detach().double() for new, old in pairs]


def held(update: Tensor) -> dict[str, float]:
    """The share of the update's squared norm that the nearest matrix of each kind has, by kind and by the number of
    free parameters in multiples of d. A kind that had nothing to do with the update would hold the share of
    dimensions that it spans: its parameters over d^2."""
    d = len(update)
    i, j = torch.meshgrid(torch.arange(d), torch.arange(d), indexing="ij")
    total = update.square().sum()

    def shared(groups: Tensor, chosen: Tensor | None = None) -> float:
        """Matrices that have one number for each group of places, and zeros where not chosen."""
        values, groups = (update, groups) if chosen is None else (update[chosen], groups[chosen])
        _, groups, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
        sums = torch.zeros(len(sizes), dtype=update.dtype).index_add(0, groups.flatten(), values.flatten())
        return ((sums.square() / sizes).sum() / total).item()

    shares = {}
    singular = torch.linalg.svdvals(update).square() / total
    for rank in (1, 2, 4, 8):
        shares[f"low_rank {2 * rank}"] = singular[:rank].sum().item()
    for budget in (1, 2, 4, 8):
        size = d // budget  # of a circulant block
        shares[f"circulant {budget}"] = shared((i // size * budget + j // size) * d + (i - j) % size)
        shares[f"block_diagonal {budget}"] = shared(i * d + j, i // budget == j // budget)
    shares["symmetric_toeplitz 1"] = shared((i - j).abs())
    shares["toeplitz 2"] = shared(i - j + d)
    shares["hankel 2"] = shared(i + j)
    side = math.isqrt(d)
    if side * side == d:  # B (x) A is of rank one when its entries are ordered by those of B and of A
        ordered = update.reshape(side, side, side, side).transpose(1, 2).reshape(d, d)
        shares["kronecker 2"] = (torch.linalg.svdvals(ordered)[0].square() / total).item()
    return shares
