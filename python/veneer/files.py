# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter files: HF PEFT's `adapter_model.safetensors`, read and written whole and strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from veneer.config import write_whole
from veneer.names import listed

WEIGHTS_NAME = "adapter_model.safetensors"
LEGACY_WEIGHTS_NAME = "adapter_model.bin"  # HF PEFT's older format, read only


def write_tensors(directory: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Writes the tensors of one adapter; the old file stays whole on failure."""
    # Copies, since a tied bias has two keys and safetensors refuses shared memory.
    plain = {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    write_whole(Path(directory) / WEIGHTS_NAME, save(plain, metadata={"format": "pt"}))


def read_tensors(directory: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors in an adapter's folder."""
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"[veneer] expected a folder with {WEIGHTS_NAME}, got {directory}")
    if (folder / WEIGHTS_NAME).is_file():
        try:
            return _without_doubles(load_file(folder / WEIGHTS_NAME))
        except SafetensorError as error:
            raise ValueError(f"[veneer] {folder / WEIGHTS_NAME} is damaged: {error}") from error
    if (folder / LEGACY_WEIGHTS_NAME).is_file():
        return _without_doubles(torch.load(folder / LEGACY_WEIGHTS_NAME, map_location="cpu", weights_only=True))
    raise FileNotFoundError(
        f"[veneer] expected {WEIGHTS_NAME} in {directory}, found {listed(sorted(p.name for p in folder.iterdir()))}"
    )


def _without_doubles(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With bias="all", HF PEFT writes the biases of modules_to_save twice, under their path and under the wrapper's."""

    def double(key: str) -> bool:
        twin = tensors.get(key.replace(".modules_to_save.", "."))
        return ".modules_to_save." in key and twin is not None and torch.equal(tensors[key], twin)

    return {key: tensor for key, tensor in tensors.items() if not double(key)}


def copy_strictly(source: Mapping[str, Tensor], into: Mapping[str, Tensor], what: str) -> None:
    """Copies every tensor of `source` into the one of the same key. All keys and shapes must agree; nothing is written
    before they do."""
    missing = sorted(into.keys() - source.keys())
    unexpected = sorted(source.keys() - into.keys())
    shapes = [
        f"{key}: expected {list(into[key].shape)}, got {list(source[key].shape)}"
        for key in sorted(into.keys() & source.keys())
        if into[key].shape != source[key].shape
    ]
    problems = [
        f"{label}: {listed(items, most=8)}"
        for label, items in (("missing", missing), ("unexpected", unexpected), ("other shapes", shapes))
        if items
    ]
    if problems:
        raise ValueError(f"[veneer] {what} does not fit the model; {'; '.join(problems)}")
    with torch.no_grad():
        for key, tensor in source.items():
            into[key].copy_(tensor)
