# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter files: HF PEFT's `adapter_model.safetensors`, read and written whole and strictly."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from veneer.config import CONFIG_NAME, PeftConfig, write_whole
from veneer.names import listed

WEIGHTS_NAME = "adapter_model.safetensors"
LEGACY_WEIGHTS_NAME = "adapter_model.bin"  # HF PEFT's older format, read only


def write_adapter(directory: str | os.PathLike, config: PeftConfig, tensors: Mapping[str, Tensor]) -> None:
    """Writes the two files of one adapter; the old ones stay whole on failure."""
    # Copies, since a tied bias has two keys and safetensors refuses shared memory.
    plain = {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    folder = Path(directory)
    write_whole(
        {
            folder / WEIGHTS_NAME: save(plain, metadata={"format": "pt"}),
            folder / CONFIG_NAME: config.to_file(inference_mode=True),
        }
    )


# What LoRA can start from, as HF PEFT's files say it (init_lora_weights). A start of the adapter alone is over once its tensors
# are loaded; one that also moved the base left tensors that fit only the moved base.
STARTS_OF_THE_ADAPTER = ("orthogonal", "eva")
_MOVED = (
    "a part of the weight is moved from the base into the adapter. HF PEFT's "
    "save_pretrained(path_initial_model_for_weight_conversion=...) makes a plain LoRA of it"
)
STARTS_THAT_MOVE_THE_BASE = {
    **dict.fromkeys(("pissa", "corda", "olora", "lora_ga"), _MOVED),
    "loftq": "the base is replaced by a quantised one",
}


def to_load(config: PeftConfig, source: str | os.PathLike) -> PeftConfig:
    """A copy of an adapter's configuration, for a model that its tensors will be loaded into."""
    config = copy.deepcopy(config)
    start = getattr(config, "init_lora_weights", None)
    if start in STARTS_OF_THE_ADAPTER:
        config.init_lora_weights = True
    reason = STARTS_THAT_MOVE_THE_BASE.get(start.partition("_niter_")[0].lower()) if isinstance(start, str) else None
    if reason:
        raise ValueError(
            f"[{type(config).__name__}] {source} was trained from init_lora_weights={start!r}, so its tensors do not fit the "
            f"plain base: {reason}"
        )
    return config


def read_tensors(directory: str | os.PathLike, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """The tensors in an adapter's folder, read to a device (the CPU)."""
    device = str(device or "cpu")
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"[veneer] expected a folder with {WEIGHTS_NAME}, got {directory}")
    if (folder / WEIGHTS_NAME).is_file():
        try:
            return load_file(folder / WEIGHTS_NAME, device=device)
        except SafetensorError as error:
            raise ValueError(f"[veneer] {folder / WEIGHTS_NAME} is damaged: {error}") from error
    if (folder / LEGACY_WEIGHTS_NAME).is_file():
        return torch.load(folder / LEGACY_WEIGHTS_NAME, map_location=device, weights_only=True)
    raise FileNotFoundError(
        f"[veneer] expected {WEIGHTS_NAME} in {directory}, found {listed(sorted(p.name for p in folder.iterdir()))}"
    )


def without_doubles(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With bias="all", HF PEFT writes the biases of modules_to_save twice, under their path and under the wrapper's; the latter
    keeps the adapter's name where the module has others below it."""

    def double(key: str) -> bool:
        path, wrapped, rest = key.partition(".modules_to_save.")
        twins = (f"{path}.{end}" for end in (rest, rest.partition(".")[2]))
        return bool(wrapped) and any(twin in tensors and torch.equal(tensors[key], tensors[twin]) for twin in twins)

    return {key: tensor for key, tensor in tensors.items() if not double(key)}


def copy_strictly(source: Mapping[str, Tensor], into: Mapping[str, Tensor], what: str) -> None:
    """Copies every tensor of `source` into the one of the same key. All keys, shapes and kinds of numbers must
    agree; nothing is written before they do."""
    missing = sorted(into.keys() - source.keys())
    unexpected = sorted(source.keys() - into.keys())
    shapes = [
        f"{key}: expected {list(into[key].shape)}, got {list(source[key].shape)}"
        for key in sorted(into.keys() & source.keys())
        if into[key].shape != source[key].shape
    ]
    types = [
        f"{key}: expected {into[key].dtype}, got {source[key].dtype}"
        for key in sorted(into.keys() & source.keys())
        if into[key].is_floating_point() != source[key].is_floating_point()
    ]
    problems = [
        f"{label}: {listed(items, most=8)}"
        for label, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shapes", shapes),
            ("other types", types),
        )
        if items
    ]
    if problems:
        raise ValueError(f"[veneer] {what} does not fit the model; {'; '.join(problems)}")
    with torch.no_grad():
        for key, tensor in source.items():
            into[key].copy_(tensor)
