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
from veneer.names import in_layers, listed, named, suggestion, tails
from veneer.saved_module import inside

PATTERNS = ("rank_pattern", "alpha_pattern", "feedforward_modules")  # of a configuration: they speak of its targets


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


def head_paths(model: nn.Module, config: PeftConfig) -> set[str]:
    """The output head: what "all-linear" leaves out."""
    heads = {
        place.path
        for place in places(model)
        if named(TASK_HEADS.get(str(config.task_type), ["classifier", "score", "qa_outputs"]), place.path)
    }
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return heads | {place.path for place in places(model) if output is not None and place.module is output}


def saved_modules(model: nn.Module, config: PeftConfig) -> list[Place]:
    """The modules trained and saved whole: those of `modules_to_save`, each of which must exist, and the heads that the
    task type implies, where they exist."""
    requested = list(config.modules_to_save or [])
    all_places = list(places(model))
    for name in requested:
        if not any(named([name], place.path) for place in all_places):
            raise _miss(config, "modules_to_save", name, [place.path for place in all_places])
    implied = TASK_HEADS.get(getattr(config.task_type, "value", config.task_type) or "", [])
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
    for field in PATTERNS[:2]:
        for pattern in getattr(config, field, None) or {}:
            if not any(named(rf"(.*\.)?({pattern})", path) for path in paths):
                raise _miss(config, field, pattern, paths)
    feedforward = getattr(config, "feedforward_modules", None)
    for one in [feedforward] if isinstance(feedforward, str) else feedforward or []:
        if not any(named(one if isinstance(feedforward, str) else [one], path) for path in paths):
            raise _miss(config, "feedforward_modules", one, paths)


def _restricted(model: nn.Module, config: PeftConfig, found: list[Found]) -> list[Found]:
    """Applies exclude_modules, layers_to_transform and modules_to_save."""
    paths = [place.path for place in places(model)]
    if isinstance(config.exclude_modules, list):
        for name in config.exclude_modules:
            if not any(named([name], path) for path in paths):
                raise _miss(config, "exclude_modules", name, paths)
    saved = [place.path for place in saved_modules(model, config)]
    kept = []
    for one in found:
        path = one.place.path
        if named(config.exclude_modules, path) or any(path == s or path.startswith(s + ".") for s in saved):
            continue
        if in_layers(path, config.layers_to_transform, config.layers_pattern):
            kept.append(one)
    return kept


def _linear(model: nn.Module, config: PeftConfig, targets: list[str] | str) -> list[Found]:
    all_places = list(places(model))
    linears = [place for place in all_places if base.is_linear(place.module)]
    if isinstance(targets, str) and targets.lower() == "all-linear":
        heads = head_paths(model, config)
        return [
            Found(place)
            for place in linears
            if place.path not in heads and not any(place.path.startswith(h + ".") for h in heads)
        ]
    if isinstance(targets, str):
        matched = [place for place in all_places if named(targets, place.path)]
        # A pattern such as encoder.* names containers too; only leaves with tensors of their own are meant.
        matched = [p for p in matched if base.is_linear(p.module) or (not p.module._modules and p.module._parameters)]
        if not matched:
            raise _miss(config, "target_modules", targets, [place.path for place in linears])
    else:
        matched = [place for place in all_places if named(targets, place.path)]
        for name in targets:
            if not any(named([name], place.path) for place in all_places):
                raise _miss(config, "target_modules", name, [place.path for place in linears])
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
        if kind not in WIRINGS or kind == "linear" or (argument and not argument.isdigit()):
            known = [name for name in WIRINGS if name != "linear"]
            raise ValueError(
                f"[{type(config).__name__}] a wiring must be one of: {', '.join(known)}, or input:N for the N-th "
                f"argument; got {wiring}{suggestion(kind, known)}"
            )
        for one in [patterns] if isinstance(patterns, str) else patterns:
            pattern = one if isinstance(patterns, str) else [one]
            matched = [place for place in all_places if named(pattern, place.path)]
            if not matched:
                raise _miss(config, f"target_modules[{wiring!r}]", one, [place.path for place in all_places])
            found += [Found(place, kind, int(argument or 0)) for place in matched]
    return found


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


def _miss(config: PeftConfig, what: str, name: str, known: list[str]) -> ValueError:
    words = [*tails(known), *known]
    return ValueError(
        f"[{type(config).__name__}] {what} names `{name}`, which matches no module{suggestion(name, words)}"
        f" ({'targets' if what in PATTERNS else 'modules'} here: {listed(tails(known))})"
    )
