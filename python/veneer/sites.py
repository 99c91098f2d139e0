# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Finds the places of a model that a configuration names. Strict: every requested name must match something."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from veneer import base
from veneer.adapted import WIRINGS, Tensors
from veneer.architectures import ARCHITECTURES
from veneer.config import TASK_HEADS, PeftConfig
from veneer.names import block_of, listed, named, suggestion, tails
from veneer.saved_module import inside

PATTERNS = ("rank_pattern", "alpha_pattern", "block_size_pattern")  # of a configuration: a field's values by target

OF_ARGUMENTS = ("input", "parallel")  # wirings to an argument of the module
WHOLE = ": a string is a regular expression of the whole path, names go into a list"  # why it matches nothing


@dataclass
class Place:
    """A module of the user's model by its original path, whatever is wrapped around it now."""

    path: str
    module: nn.Module
    parent: nn.Module
    name: str  # in parent
    above: list[nn.Module]  # from the root down to the parent

    @property
    def wrappers(self) -> list[nn.Module]:
        """What is wrapped around the module, outermost first."""
        here, found = self.parent._modules[self.name], []
        while here is not self.module:
            found.append(here)
            here = inside(here)
        return found


@dataclass
class Found:
    """A place to adapt, and how."""

    place: Place
    wiring: str = "linear"
    argument: int = 0


def places(model: nn.Module) -> Iterator[Place]:
    """Every module below `model`, with paths as before any wrapping. What lies in a module that has several names is found
    by the first of them."""
    entered = set()

    def walk(parent: nn.Module, prefix: str, above: list[nn.Module]) -> Iterator[Place]:
        for name, child in parent._modules.items():
            if child is None or isinstance(child, Tensors):
                continue
            while (wrapped := inside(child)) is not None:
                child = wrapped  # noqa: PLW2901
            yield Place(prefix + name, child, parent, name, [*above, parent])
            if id(child) not in entered:
                entered.add(id(child))
                yield from walk(child, f"{prefix}{name}.", [*above, parent])

    yield from walk(model, "", [])


def all_linear(model: nn.Module, config: PeftConfig) -> list[str] | str:
    """What "all-linear" means for a model, by HF PEFT's rule: every linear layer but the output head, which is the output
    embeddings, or for SEQ_CLS the score or classifier, of a transformers model."""
    head = None
    if hasattr(model, "get_output_embeddings"):
        head = model.get_output_embeddings()
        if head is None and getattr(config.task_type, "value", config.task_type) == "SEQ_CLS":
            head = getattr(model, "score", None) or getattr(model, "classifier", None)
    while head is not None and (wrapped := inside(head)) is not None:
        head = wrapped
    all_places = list(places(model))
    names = [place.path for place in all_places if base.is_linear(place.module) and place.module is not head]
    if not names:
        raise ValueError(
            f'[{type(config).__name__}] target_modules="all-linear" expected linear layers (Linear, Conv1D) below the model, '
            f"got a {type(model).__name__} without; put a layer that is to be adapted into a module, such as nn.Sequential"
        )
    exact = all(named(names, place.path) == (place.path in names) for place in all_places)
    return names if exact else "|".join(map(re.escape, names))  # a list also matches the ends of longer paths


def saved_modules(model: nn.Module, config: PeftConfig) -> list[Place]:
    """The modules trained and saved whole: those of `modules_to_save`, each of which must exist, and the heads that the
    task type implies, where they exist."""
    requested = list(config.modules_to_save or [])
    all_places = list(places(model))
    implied = TASK_HEADS.get(getattr(config.task_type, "value", config.task_type) or "", [])
    for name in requested:
        # HF PEFT writes all heads that the task implies into the file.
        if name not in implied and not any(named([name], place.path) for place in all_places):
            raise _miss(config, "modules_to_save", [name], [place.path for place in all_places])
    wanted = [*requested, *(name for name in implied if name not in requested)]
    found = [place for place in all_places if named(wanted, place.path)]
    # A module below another one that is saved is part of it.
    return [p for p in found if not any(p.path.startswith(q.path + ".") for q in found)]


def find(model: nn.Module, config: PeftConfig) -> list[Found]:
    """The sites of a configuration, in the model's order. Raises ValueError where a name, the default targets or the
    architecture is unknown, or where nothing is left."""
    targets: Any = config.target_modules
    placement = getattr(config, "placement", None)
    if targets is None:
        found = _placed(model, config, placement) if placement else _default(model, config)
    elif isinstance(targets, dict):
        found = _wired(model, config, targets)
    elif placement:
        found = _wired(model, config, {"output": targets})
    else:
        found = _linear(model, config, targets)
    if not found and targets is not None:
        raise ValueError(
            f"[{type(config).__name__}] target_modules is empty, got {targets!r}; expected at least one name of a module"
        )
    _check_patterns(config, [one.place.path for one in found])
    found = _restricted(model, config, found)
    if not found:
        raise ValueError(
            f"[{type(config).__name__}] nothing is left to adapt: exclude_modules, layers_to_transform or "
            "modules_to_save take every matched module away"
        )
    return found


def _check_patterns(config: PeftConfig, paths: list[str]) -> None:
    """What a configuration says of some of its targets must be said of at least one."""
    for field in PATTERNS:
        for pattern in getattr(config, field, None) or {}:
            if not any(named(rf"(.*\.)?({pattern})", path) for path in paths):
                raise _miss(config, field, [pattern], paths, among="targets")
    for pattern in each(getattr(config, "feedforward_modules", None)):
        if not any(named(pattern, path) for path in paths):
            raise _miss(config, "feedforward_modules", pattern, paths, among="targets")


def _restricted(model: nn.Module, config: PeftConfig, found: list[Found]) -> list[Found]:
    """Applies exclude_modules, layers_to_transform and modules_to_save."""
    paths = [place.path for place in places(model)]
    for pattern in each(config.exclude_modules):
        if not any(named(pattern, path) for path in paths):
            raise _miss(config, "exclude_modules", pattern, paths)
    layers = config.layers_to_transform
    layers = [layers] if isinstance(layers, int) else layers
    if config.layers_pattern and layers is None:
        raise ValueError(
            f"[{type(config).__name__}] layers_pattern expected layers_to_transform, the indices that it counts; got "
            f"layers_pattern={config.layers_pattern!r} alone"
        )
    here = {block_of(path, config.layers_pattern) for path in paths} - {None}
    absent = [str(index) for index in layers or () if index not in here]
    if config.layers_pattern and not here:
        lists = [path.rpartition(".")[0] for path in paths if path.rpartition(".")[2].isdigit()]
        raise _miss(config, "layers_pattern", [str(config.layers_pattern)], lists)
    if absent:
        among = f" in {config.layers_pattern}" if config.layers_pattern else ""
        raise ValueError(
            f"[{type(config).__name__}] layers_to_transform names {listed(absent)}, which no block{among} has; "
            f"indices here: {listed(map(str, sorted(here)))}"
        )
    saved = [place.path for place in saved_modules(model, config)]
    kept = []
    for one in found:
        path = one.place.path
        if named(config.exclude_modules, path) or any(path == s or path.startswith(s + ".") for s in saved):
            continue
        if layers is None or block_of(path, config.layers_pattern) in layers:
            kept.append(one)
    return kept


def _linear(model: nn.Module, config: PeftConfig, targets: list[str] | str) -> list[Found]:
    all_places = list(places(model))
    linears = [place for place in all_places if base.is_linear(place.module)]
    if isinstance(targets, str):
        matched = [place for place in all_places if named(targets, place.path)]
        # A pattern such as encoder.* names containers too; only leaves with tensors of their own are meant.
        matched = [p for p in matched if base.is_linear(p.module) or (not p.module._modules and p.module._parameters)]
        if not matched:
            raise _miss(config, "target_modules", targets, [place.path for place in linears])
    else:
        matched = [place for place in all_places if named(targets, place.path)]
        for pattern in each(targets):
            if not any(named(pattern, place.path) for place in all_places):
                raise _miss(config, "target_modules", pattern, [place.path for place in linears])
    for place in matched:
        if not base.is_linear(place.module):
            below = [p.path for p in linears if p.path.startswith(place.path + ".")]
            raise ValueError(
                f"[{type(config).__name__}] expected linear layers (Linear, Conv1D), got {place.path}, a "
                f"{type(place.module).__name__}" + (f"; below it: {listed(tails(below))}" if below else "")
            )
    return [Found(place) for place in matched]


def _wired(model: nn.Module, config: PeftConfig, targets: dict[str, Any]) -> list[Found]:
    all_places = list(places(model))
    found = []
    for wiring, patterns in targets.items():
        kind, _, argument = wiring.partition(":")
        if kind not in WIRINGS or kind == "linear" or (argument and not (argument.isdigit() and kind in OF_ARGUMENTS)):
            known = [name for name in WIRINGS if name != "linear"]
            raise ValueError(
                f"[{type(config).__name__}] a wiring must be one of: {', '.join(known)}, or input:N and parallel:N "
                f"for the N-th argument; got {wiring}{suggestion(kind, known)}"
            )
        for pattern in each(patterns):
            matched = [place for place in all_places if named(pattern, place.path)]
            if not matched:
                raise _miss(config, f"target_modules[{wiring!r}]", pattern, [place.path for place in all_places])
            for place in matched:
                _check_wiring(config, wiring, place, all_places)
            found += [Found(place, kind, int(argument or 0)) for place in matched]
    return found


def _check_wiring(config: PeftConfig, wiring: str, place: Place, all_places: list[Place]) -> None:
    kind, _, argument = wiring.partition(":")
    if kind == "norm" and not base.is_norm(place.module):
        norms = [p.path for p in all_places if base.is_norm(p.module)]
        raise ValueError(
            f"[{type(config).__name__}] target_modules['norm'] expected norms (LayerNorm, RMSNorm), got {place.path}, a "
            f"{type(place.module).__name__}{suggestion(place.path, norms)}; norms here: {listed(tails(norms))}"
        )
    count = base.argument_count(place.module)
    if kind in OF_ARGUMENTS and int(argument or 0) >= count:
        raise ValueError(
            f"[{type(config).__name__}] target_modules[{wiring!r}] expected an argument of {place.path} "
            f"({type(place.module).__name__}), which has {count}, counted from 0; got {argument}"
        )


def _architecture(model: nn.Module) -> tuple[str | None, Any]:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return kind, ARCHITECTURES.get(kind)


def _placed(model: nn.Module, config: PeftConfig, placement: str) -> list[Found]:
    kind, architecture = _architecture(model)
    if architecture is None:
        example = listed(tails(p.path for p in places(model) if p.module._parameters or base.is_linear(p.module)))
        raise ValueError(
            f"[{type(config).__name__}] placement={placement!r} is known for {listed(ARCHITECTURES)}; this model is "
            f"{kind or type(model).__name__}. Name the modules instead: target_modules={{wiring: [names]}}, where a wiring is "
            f"{'; '.join(f'{name}: {text}' for name, text in WIRINGS.items() if name != 'linear')}. For example "
            f"target_modules={{'output': ['{tails(p.path for p in places(model))[-1] if list(places(model)) else 'fc'}']}}. Modules here: {example}"
        )
    found = []
    for at in getattr(architecture, placement):
        found += [
            Found(p, at.wiring, at.argument) for p in places(model) if re.fullmatch(rf"(.*\.)?{at.modules}", p.path)
        ]
    order = {place.path: i for i, place in enumerate(places(model))}
    return sorted(found, key=lambda one: order[one.place.path])


def default_targets(model: nn.Module, config: PeftConfig) -> dict[str, Any]:
    """The fields that a configuration without target_modules gets from the model's architecture."""
    kind, architecture = _architecture(model)
    if architecture is None:
        linears = tails(p.path for p in places(model) if base.is_linear(p.module))
        raise ValueError(
            f"[{type(config).__name__}] target_modules is needed: defaults are known for {listed(ARCHITECTURES)}; this "
            f'model is {kind or type(model).__name__}. Its linear layers: {listed(linears)}; or "all-linear"'
        )
    if hasattr(config, "feedforward_modules"):
        feedforward = "|".join(architecture.feedforward)
        outputs = "|".join(re.escape(name) for name in architecture.key_value)
        return {
            "target_modules": rf"(.*\.)?({outputs}|{feedforward})",
            "feedforward_modules": rf"(.*\.)?({feedforward})",
        }
    return {"target_modules": list(architecture.query_value)}


def _default(model: nn.Module, config: PeftConfig) -> list[Found]:
    return _linear(model, config, default_targets(model, config)["target_modules"])


def each(patterns: list[str] | str | None) -> list[list[str] | str]:
    """What must match something, each by itself: the names of a list, or a regular expression."""
    return [patterns] if isinstance(patterns, str) else [[name] for name in patterns or []]


def _miss(
    config: PeftConfig, what: str, pattern: list[str] | str, known: list[str], among: str = "modules"
) -> ValueError:
    """The error for a field (`what`) of which a pattern of `each` matches nothing."""
    name, rule = (pattern, WHOLE) if isinstance(pattern, str) else (pattern[0], "")
    meant = suggestion(name, [*tails(known), *known])
    if rule and any(named([name], path) for path in known):
        meant = f"; did you mean [{name!r}]?"
    return ValueError(
        f"[{type(config).__name__}] {what} names `{name}`, which matches no module{rule}{meant}"
        f" ({among} here: {listed(tails(known))})"
    )


# Fields of a configuration that say where an adapter goes, and those that say nothing of what it computes.
WHERE = {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "task_type"}
UNSAID = {
    "inference_mode",
    "init_lora_weights",
    "fan_in_fan_out",
    "base_model_name_or_path",
    "revision",
    "auto_mapping",
    "peft_version",
}


def differences(model: nn.Module, mine: PeftConfig, other: PeftConfig) -> list[str]:
    """The fields in which two configurations of adapters differ, with both values. Those that say where are compared by
    what they match."""
    ours, theirs = mine.to_dict(), other.to_dict()
    if mine.peft_type != other.peft_type:
        fields = {"peft_type"}
    else:
        fields = {name for name in ours if ours[name] != theirs[name]} - UNSAID
        if fields & WHERE and _where(model, mine) == _where(model, other):
            fields -= WHERE
    return [f"{name} ({ours[name]!r} here, {theirs[name]!r} there)" for name in sorted(fields)]


def _where(model: nn.Module, config: PeftConfig) -> list[tuple[str, str, int]]:
    found = [(one.place.path, one.wiring, one.argument) for one in find(model, config)]
    return found + [(place.path, "saved", 0) for place in saved_modules(model, config)]
