# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the contenders of a case on copies of one frozen model, with equal parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from veneer import model as veneer_model
from veneer.adapted import AdaptedLayer
from veneer.bench import compare, peers, tensorly
from veneer.bench.cases import Case
from veneer.bench.contender import COMPILED, DENSE, OURS, PEER, PLAIN, Contender, Mapped, Sample, dtype_of
from veneer.bench.peers import Unavailable
from veneer.bench.plain import PlainLayer, dense_layer, plain_layer


@dataclass
class Field:
    """What a case runs on. `inner`: path of the module that is called, "" for the whole model; `floors`: the floor
    and its double, of which the first is what everything is compared with."""

    base: nn.Module
    targets: Any
    head: list[str] | None
    inner: str
    sample: Sample
    floors: list[Contender]
    linear: bool  # y is linear in x but for the adapter's own nonlinearity: a single layer
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None
    contenders: list[Contender] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)  # contender -> why it does not take part
    agreement: dict[str, compare.Agreement] = field(default_factory=dict)
    layers: list[Any] = field(default_factory=list)  # our adapted layers
    paths: set[str] = field(default_factory=set)  # what `explain` says of them

    def contender(self, name: str, model: nn.Module, parameters: dict[str, Mapped]) -> Contender:
        """A contender on an adapted copy of the base."""
        inner = self.base_of(model).get_submodule(self.inner) if self.inner else model
        model.train()
        optimizer = self.optimizer([m.parameter for m in parameters.values()]) if self.optimizer else None
        return Contender(name, inner, parameters, optimizer, scope=model)

    @staticmethod
    def base_of(model: nn.Module) -> nn.Module:
        return model.get_base_model() if hasattr(model, "get_base_model") else model


def _ours(case: Case, ground: Field) -> tuple[nn.Module, Contender]:
    configuration = case.variant.make(ground.targets, case.dropout, modules_to_save=ground.head)
    model = veneer_model.get_peft_model(
        copy.deepcopy(ground.base), configuration, autocast_adapter_dtype=case.adapter_dtype != case.dtype
    )
    parameters = {name: Mapped(p) for name, p in model.named_parameters() if p.requires_grad}
    ground.layers = model.base_model.layers()
    ground.paths = {row.path for row in model.explain()}
    found = {
        str(p.dtype).removeprefix("torch.")
        for layer in ground.layers
        for a in layer.adapters.values()
        for p in a.params()
    }
    if found - {case.adapter_dtype}:
        raise ValueError(
            f"[bench] {case.id} asks for adapters in {case.adapter_dtype}, the library made {', '.join(sorted(found))}"
        )
    return model, ground.contender(OURS, model, parameters)


def _twin(
    name: str,
    make: Callable[[AdaptedLayer, nn.Module], PlainLayer | None],
    case: Case,
    ground: Field,
    ours: nn.Module,
) -> Contender:
    """The base with a layer made by `make` in the place of each of ours."""
    names = {id(p): name for name, p in ours.named_parameters()}
    model = copy.deepcopy(ground.base)
    parameters: dict[str, Mapped] = {}
    copies: dict[int, nn.Parameter] = {}  # what layers share is one tensor here too
    for layer in ground.layers:
        twin = make(layer, model.get_submodule(layer.path))
        if twin is None:
            raise Unavailable(f"there is no layer for {case.variant.name} at a site {layer.wiring}")
        model.set_submodule(layer.path, twin)
        (adapter,) = layer.adapters.values()
        for i, tensor in enumerate(adapter.params()):
            twin.tensors[i] = copies.setdefault(id(tensor), twin.tensors[i])
            if twin.tensors[i].requires_grad:
                parameters[names[id(tensor)]] = Mapped(twin.tensors[i])
    for head in ground.head or []:
        for key, parameter in model.get_submodule(head).named_parameters():
            parameter.requires_grad_(True)
            parameters[f"base_model.model.{head}.modules_to_save.default.{key}"] = Mapped(parameter)
    return ground.contender(name, model, parameters)


def _peer(case: Case, ground: Field, ours: nn.Module) -> Contender:
    own = next(iter(ground.layers[0].adapters.values())).own  # none where all is shared (LoRTA)
    block = getattr(*own[0]).shape[-1] if own else 0
    configuration = peers.config(case, ground.targets, ground.head, block)
    import peft

    try:
        model = peft.get_peft_model(
            copy.deepcopy(ground.base), configuration, autocast_adapter_dtype=case.adapter_dtype != case.dtype
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise Unavailable(f"HF PEFT refuses: {error}") from error
    contender = ground.contender(PEER, model, peers.mapping(ours, model))
    peers.copy_frozen(ours, model)
    if (defect := peers.DEFECTS.get(configuration.peft_type.value)) is not None:
        contender.uncompared, contender.note = defect[0 if ground.inner else 1], defect[2]
    return contender


def _makers(case: Case) -> dict[str, Callable[[Case, Field, nn.Module], Contender]]:
    """Contender -> what builds it; a case that one has no part in by its nature does not name it."""
    layers: dict[str, Callable[..., PlainLayer | None]] = {PLAIN: plain_layer}
    if case.variant.method == "additive" and not case.dropout:
        layers[DENSE] = dense_layer
    twins = {name: partial(_twin, name, make) for name, make in (layers | tensorly.layers(case)).items()}
    return {**twins, PEER: _peer}


def assemble(case: Case, ground: Field, *, compiled: bool = False) -> None:
    """Fills `ground.contenders`: the floor twice, ours, plain, dense, the peers and, on request, HF PEFT and ours
    compiled. All have equal random parameters and were compared before this returns.

    Raises:
        Mismatch: two contenders compute different things.
    """
    model, ours = _ours(case, ground)
    adapter = [name for name in ours.parameters if ".modules_to_save." not in name]
    compare.randomise(ours, ground.floors[0], ground.sample, adapter)
    contenders: dict[str, Contender] = {OURS: ours}
    for name, make in _makers(case).items():
        try:
            contenders[name] = make(case, ground, model)
        except Unavailable as reason:
            ground.absent[name] = str(reason)
            continue
        if set(contenders[name].parameters) != set(ours.parameters):
            raise compare.Mismatch(
                f"{name} trains {sorted(contenders[name].parameters)[:4]}..., veneer {sorted(ours.parameters)[:4]}..."
            )
        for key, mapped in contenders[name].parameters.items():
            mapped.set(ours.parameters[key].parameter)
    if compiled:
        for name in (OURS, PEER):
            if name in contenders:
                twin = contenders[name]
                contenders[name + COMPILED] = Contender(
                    name + COMPILED,
                    torch.compile(twin.module),
                    twin.parameters,
                    twin.optimizer,
                    twin.scope,
                    twin.uncompared,
                    twin.note,
                )
    # In 16 bits a dense gradient is rounded before a family sums it: that contender then has nothing to show.
    dtype = dtype_of(case.dtype)
    optional = {DENSE} if dtype.itemsize == 2 else set()
    ground.agreement, off = compare.compare(
        list(contenders.values()), contenders.get(PLAIN), ground.sample, dtype, optional
    )
    ground.absent |= off
    for name in off:
        del contenders[name]
    if case.dropout and ground.linear:
        multilinear = not _decomposed(ground)
        for contender in contenders.values():
            compare.check_dropout(contender, ground.floors[0], ground.sample, case.dropout, multilinear)
    ground.contenders = [*ground.floors, *contenders.values()]


def _decomposed(ground: Field) -> bool:
    adapter = next(iter(ground.layers[0].adapters.values()))
    return any(spec.name == "magnitude" for spec in adapter.specs)
