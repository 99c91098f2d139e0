# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""An adapter's tensors by their keys in files (HF PEFT's): taken from a model, and put into one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from veneer.files import copy_strictly, without_doubles
from veneer.host import Host
from veneer.names import listed
from veneer.saved_module import inside

logger = logging.getLogger("veneer")


def host_of(model: Any) -> Host:
    """The host in a PeftModel."""
    host = getattr(model, "base_model", None)
    if not isinstance(host, Host):
        raise TypeError(
            f"[veneer] expected a veneer.PeftModel, got a {type(model).__module__}.{type(model).__qualname__}"
        )
    return host


def take(host: Host, name: str, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """An adapter's tensors; from a state dict of the PeftModel, where one is given."""
    host.known(name)
    found = host.tensors(name)
    if state_dict is None:
        return {key: tensor for key, (_, tensor) in found.items()}
    absent = sorted(state for state, _ in found.values() if state not in state_dict)
    if absent:
        raise ValueError(f"[veneer] the state dict given lacks {listed(absent)}")
    return {key: state_dict[state] for key, (state, _) in found.items()}


def fill(host: Host, name: str, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts tensors into an adapter; strict (`copy_strictly`). Those of the model's input and output embeddings, which HF PEFT
    also writes where they are adapted, resized or asked for (`save_embedding_layers`), go into the base, as they do there."""
    if host.merged():
        raise RuntimeError("[veneer] adapters are merged: unmerge_adapter() before loading")
    tensors = without_doubles(tensors)
    into = take(host, name)
    of_base = {key: t for key, t in _embeddings(host).items() if key in tensors and key not in into}
    changed = [key for key, t in of_base.items() if not t.is_meta and not torch.equal(tensors[key].to(t), t)]
    copy_strictly(tensors, {**into, **of_base}, source)
    if changed:
        logger.warning(
            "%s replaced tensors of the base, for all adapters, and saving an adapter does not write them: %s",
            source,
            listed(sorted(changed)),
        )


def _embeddings(host: Host) -> dict[str, Tensor]:
    """The tensors of a transformers model's input and output embeddings: key in files -> tensor."""
    names = {id(module): path for path, module in host.named_modules(prefix="base_model")}
    found = {}
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        module = None
        with contextlib.suppress(NotImplementedError):  # transformers' word for a model that has none
            module = getattr(host.model, getter, lambda: None)()
        while isinstance(module, nn.Module) and (wrapped := inside(module)) is not None:
            module = wrapped
        if id(module) in names:
            found.update({f"{names[id(module)]}.{key}": t for key, t in module.state_dict(keep_vars=True).items()})
    return found


def get_peft_model_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor] | None = None, adapter_name: str = "default"
) -> dict[str, Tensor]:
    """An adapter's tensors by their keys in its file, without the adapter's name. They are the model's own, not copies.

    Args:
        model: a PeftModel.
        state_dict: the PeftModel's state dict to take them from (a gathered one); default the model.
        adapter_name: which adapter.
    """
    return {key: tensor.detach() for key, tensor in take(host_of(model), adapter_name, state_dict).items()}


def set_peft_model_state_dict(
    model: nn.Module, peft_model_state_dict: Mapping[str, Tensor], adapter_name: str = "default"
) -> _IncompatibleKeys:
    """Copies tensors, with the keys of `get_peft_model_state_dict`, into an adapter of a PeftModel. Strict: missing, unexpected
    and misshapen ones are an error that lists them, so the lists of the result, which HF PEFT fills, are empty. Tensors of
    the model's input and output embeddings go into the base, as from files."""
    fill(host_of(model), adapter_name, peft_model_state_dict, "the state dict")
    return _IncompatibleKeys([], [])
