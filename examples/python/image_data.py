# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of images.py: CIFAR-10, Omniglot and MNIST as 32 x 32 pixels of three channels from -1 to 1, which of
them make the base model, and which are the tasks it is adapted to. Splits are drawn once, the same for every seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn.functional import pad

SIDE = 32
SHIFT = 3  # pixels, at most, of the random shifts in training


class DataError(ValueError):
    """A file that is not there or not what it should be; the message says which."""


@dataclass
class Part:
    """Some pictures of one task."""

    images: Tensor  # [n, 3, 32, 32], -1 to 1
    labels: Tensor  # [n], from 0
    flips: Tensor  # [n], whether the picture may be mirrored in training

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Part:
        """Some of the pictures, classes in turn: for trying things out."""
        order = torch.argsort(torch.cat([torch.arange(int(n)) for n in torch.bincount(self.labels)]), stable=True)
        chosen = torch.argsort(self.labels, stable=True)[order[:count]]
        return Part(self.images[chosen], self.labels[chosen], self.flips[chosen])


@dataclass
class Task:
    """What a model is adapted to."""

    classes: int
    train: Part
    validation: Part
    test: Part


# How many of each class are for training and for validation; all others are for the test.
SIZES = {"cifar": (250, 100), "omniglot": (8, 4), "mnist": (100, 100)}
TITLES = {
    "cifar": "CIFAR-10, classes the base has not seen",
    "omniglot": "Omniglot, alphabets the base has not seen",
    "mnist": "MNIST, a set the base has not seen",
}
MNIST_TEST = 300  # of each class: more would only cost time


def _bytes(path: Path, skip: int) -> numpy.ndarray:
    if not path.is_file():
        raise DataError(f"[data] {path} does not exist")
    return numpy.fromfile(path, numpy.uint8)[skip:]


def _ready(images: numpy.ndarray) -> Tensor:
    """Pixels from -1 to 1; grey 28 x 28 pictures get a black border and three equal channels."""
    x = torch.from_numpy(images.astype(numpy.float32)) / 127.5 - 1
    if x.dim() == 3:
        border = (SIDE - x.shape[-1]) // 2
        x = pad(x, (border,) * 4, value=-1.0)[:, None].expand(-1, 3, -1, -1)
    return x.contiguous()


def _part(images: Tensor, labels: Tensor, flips: bool) -> Part:
    return Part(images, labels, torch.full((len(labels),), flips))


@cache
def cifar(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """CIFAR-10's binary format: a label and 3 x 32 x 32 pixels a record."""
    rows = _bytes(folder / "cifar10_subset" / f"{part}.bin", 0).reshape(-1, 1 + 3 * SIDE * SIDE)
    return _ready(rows[:, 1:].reshape(-1, 3, SIDE, SIDE)), torch.from_numpy(rows[:, 0].astype(numpy.int64))


@cache
def mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """MNIST's test images, all we have of it."""
    images = _bytes(folder / "mnist" / "t10k-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    return _ready(images), torch.from_numpy(_bytes(folder / "mnist" / "t10k-labels-idx1-ubyte", 8).astype(numpy.int64))


@cache
def omniglot(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Images, characters, and the alphabet of each character."""
    folder = folder / "omniglot_small1"
    images = _bytes(folder / "images-28x28-idx3-ubyte", 16).reshape(-1, 28, 28)
    labels = _bytes(folder / "labels-idx1-short", 0)[-2 * len(images) :].view(">i2").astype(numpy.int64)
    alphabets = [line.split("/")[0] for line in (folder / "classes.txt").read_text().split()]
    return _ready(images), torch.from_numpy(labels), alphabets


def divided(labels: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Indices of the first sizes[0] pictures of every class in a random order, of the next sizes[1], ..., of the rest."""
    generator = torch.Generator().manual_seed(0)
    parts: list[list[Tensor]] = [[] for _ in range(len(sizes) + 1)]
    for label in labels.unique():
        found = (labels == label).nonzero()[:, 0]
        found = found[torch.randperm(len(found), generator=generator)]
        for part, chosen in zip(parts, found.tensor_split(numpy.cumsum(sizes).tolist()), strict=True):
            part.append(chosen)
    return [torch.cat(part) for part in parts]


def _characters(folder: Path, known: bool) -> tuple[Tensor, Tensor]:
    """Omniglot's first three alphabets, which the base learns, or the last two; characters numbered from 0."""
    images, labels, alphabets = omniglot(folder)
    names = sorted(set(alphabets))
    wanted = torch.tensor([(names.index(name) < 3) == known for name in alphabets])[labels]
    return images[wanted], torch.unique(labels[wanted], return_inverse=True)[1]


def base_parts(folder: Path) -> tuple[int, Part, dict[str, Part]]:
    """What the base learns: CIFAR-10's first five classes and Omniglot's first three alphabets, 75 classes in one.

    Returns:
        the number of classes, the training pictures, and test pictures of each kind.
    """
    images, labels = cifar(folder, "train")
    photos = _part(images[labels < 5], labels[labels < 5], True)
    images, labels = cifar(folder, "test")
    photos_test = _part(images[labels < 5], labels[labels < 5], True)
    images, labels = _characters(folder, known=True)
    labels = labels + 5
    train, test = divided(labels, (17,))
    drawings, drawings_test = (_part(images[chosen], labels[chosen], False) for chosen in (train, test))
    both = [torch.cat([getattr(photos, name), getattr(drawings, name)]) for name in ("images", "labels", "flips")]
    return int(labels.max()) + 1, Part(*both), {"cifar": photos_test, "omniglot": drawings_test}


@cache
def load_task(folder: Path, name: str) -> Task:
    """One of SIZES."""
    flips = name == "cifar"
    if name == "cifar":
        (images, labels), (more, more_labels) = cifar(folder, "train"), cifar(folder, "test")
        old, kept, added = len(images[labels >= 5]), labels >= 5, more_labels >= 5
        images, labels = torch.cat([images[kept], more[added]]), torch.cat([labels[kept], more_labels[added]]) - 5
        train, validation, test = divided(labels[:old], SIZES[name])  # the official test pictures only test
        test = torch.cat([test, torch.arange(old, len(labels))])
    elif name == "omniglot":
        images, labels = _characters(folder, known=False)
        train, validation, test = divided(labels, SIZES[name])
    else:
        images, labels = mnist(folder)
        train, validation, test, _ = divided(labels, (*SIZES[name], MNIST_TEST))
    parts = [_part(images[chosen], labels[chosen], flips) for chosen in (train, validation, test)]
    return Task(int(labels.max()) + 1, *parts)


def augmented(part: Part, chosen: Tensor, generator: torch.Generator) -> Tensor:
    """These pictures, each shifted at random, and some mirrored."""
    images, count = part.images[chosen], len(chosen)
    wide = pad(images, (SHIFT,) * 4, mode="replicate")
    rows, columns = (torch.randint(2 * SHIFT + 1, (2, count, 1), generator=generator) + torch.arange(SIDE)).unbind()
    mirrored = (torch.rand(count, generator=generator) < 0.5) & part.flips[chosen]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    picture, channel = torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None]
    return wide[picture, channel, rows[:, None, :, None], columns[:, None, None, :]]
