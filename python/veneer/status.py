# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What state a model's adapters are in, by HF PEFT's names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from veneer.adapted import AdaptedLayer
from veneer.saved_module import SavedModule
from veneer.states import host_of

Agreed = bool | Literal["irregular"]  # "irregular": true of some and false of others


@dataclass
class TunerLayerStatus:
    """One adapted layer, or module of modules_to_save. Fields are HF PEFT's but for `quantization_backend`: quantised layers
    run by their own forward, whatever library they are of.

    Attributes:
        name: path of the layer, from "model".
        module_type: AdaptedLayer or SavedModule.
        enabled: False within `disable_adapter`.
        active_adapters: those of the active adapters that are on this layer.
        merged_adapters: those in its base's weight.
        requires_grad: by adapter, whether its parameters here are trained.
        available_adapters: all that are on this layer.
        devices: by adapter, the kinds of devices its tensors are on.
    """

    name: str
    module_type: str
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, Agreed]
    available_adapters: list[str]
    devices: dict[str, list[str]]


@dataclass
class TunerModelStatus:
    """All adapters of a model. Fields are HF PEFT's but for `adapter_model_type`, which here all methods share, and
    `quantization_backend`.

    Attributes:
        base_model_type: class of the base.
        peft_types: by adapter.
        trainable_params: number of trained parameters.
        total_params: number of all parameters.
        num_adapter_layers: number of layers and modules with adapters.
        enabled: False within `disable_adapter`.
        active_adapters: those that act.
        merged_adapters: those in the base's weights.
        requires_grad: by adapter, whether its parameters are trained.
        available_adapters: all.
        devices: by adapter, the kinds of devices its tensors are on.
    """

    base_model_type: str
    peft_types: dict[str, str]
    trainable_params: int
    total_params: int
    num_adapter_layers: int
    enabled: bool
    active_adapters: list[str]
    merged_adapters: list[str]
    requires_grad: dict[str, Agreed]
    available_adapters: list[str]
    devices: dict[str, list[str]]


def get_layer_status(model: nn.Module) -> list[TunerLayerStatus]:
    """The state of each adapted layer of a PeftModel, in the model's order."""
    return [
        _layer(name, module)
        for name, module in host_of(model).named_modules()
        if isinstance(module, (AdaptedLayer, SavedModule))
    ]


def get_model_status(model: nn.Module) -> TunerModelStatus:
    """The state of a PeftModel's adapters."""
    host = host_of(model)
    layers = get_layer_status(model)
    trainable, total = model.get_nb_trainable_parameters()
    here = {name: [layer for layer in layers if name in layer.available_adapters] for name in sorted(host.peft_config)}
    return TunerModelStatus(
        base_model_type=type(host.model).__name__,
        peft_types={name: config.peft_type for name, config in host.peft_config.items()},
        trainable_params=trainable,
        total_params=total,
        num_adapter_layers=len(layers),
        enabled=not host.disabled,
        active_adapters=list(host.active),
        merged_adapters=sorted(host.merged()),
        requires_grad={name: _agreed(layer.requires_grad[name] for layer in on) for name, on in here.items()},
        available_adapters=list(here),
        devices={name: sorted({kind for layer in on for kind in layer.devices[name]}) for name, on in here.items()},
    )


def _layer(name: str, module: AdaptedLayer | SavedModule) -> TunerLayerStatus:
    if isinstance(module, AdaptedLayer):
        tensors = {adapter: one.params() for adapter, one in sorted(module.adapters.items())}
        merged = list(module.merged_adapters)
    else:
        tensors = {adapter: list(module.tensors(adapter).values()) for adapter in sorted(module.modules_to_save)}
        merged = []
    return TunerLayerStatus(
        name=name,
        module_type=type(module).__name__,
        enabled=not module.disabled,
        active_adapters=list(module.active),
        merged_adapters=merged,
        requires_grad={adapter: _agreed(_flags(own)) for adapter, own in tensors.items()},
        available_adapters=list(tensors),
        devices={adapter: sorted({tensor.device.type for tensor in own}) for adapter, own in tensors.items()},
    )


def _flags(tensors: Iterable[Tensor]) -> list[bool]:
    """Whether parameters are trained; buffers never are, and say nothing."""
    return [tensor.requires_grad for tensor in tensors if isinstance(tensor, nn.Parameter)]


def _agreed(values: Iterable[Agreed]) -> Agreed:
    found = set(values)
    return found.pop() if len(found) == 1 else "irregular" if found else False
