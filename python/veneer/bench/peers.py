# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The same adapter in HF PEFT, with equal parameters. A configuration type that PEFT knows too gets the same fields;
what differs is in the tables here."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor, nn

from veneer.bench.cases import Case
from veneer.bench.contender import Mapped


class Unavailable(Exception):
    """Why a contender cannot take part."""


# Where HF PEFT's gradient is not that of its own forward: what is then not compared, at layer and at model level. Seen
# with 0.21.2; the step still costs what the right one would.
DEFECTS = {
    "C3A": (
        r"gradient of input",
        r"gradient of .*c3a|gradient of .*circulant",
        "C3A's input gradient fails gradcheck (w[j + k] for w[j - k]): it and what flows through it are not compared",
    ),
}


def config(case: Case, targets: Any, head: list[str] | None, block: int) -> Any:
    """PEFT's configuration for a case. `block`: the size of a circulant block in the layers of the case.

    Raises:
        Unavailable: PEFT is not installed, or has no such method.
    """
    try:
        import peft
    except ImportError as error:
        raise Unavailable("peft is not installed") from error
    ours = case.variant
    if case.variant.kind != "linear":
        raise Unavailable("HF PEFT has no adapters at hidden states")
    common = {"target_modules": targets, "modules_to_save": head}
    if ours.matrix == "circulant" and ours.method == "additive":
        if (
            ours.fields.get("form") != "single"
            or ours.fields.get("use_dora")
            or case.dropout
            or case.adapter_dtype not in (case.dtype, "float32")
        ):
            raise Unavailable("HF PEFT's C3A has one vector, no dropout and no magnitude")
        return peft.C3AConfig(block_size=block, init_weights=False, **common)
    kinds = {getattr(kind, "value", kind): cls for kind, cls in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if ours.config not in kinds:
        raise Unavailable(f"HF PEFT has no {ours.name}")
    cls = kinds[ours.config]
    fields = dict(ours.fields)
    if case.dropout:
        fields[ours.dropout_field()] = case.dropout
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = set(fields) - known
    if unknown:
        raise Unavailable(f"HF PEFT's {cls.__name__} has no {', '.join(sorted(unknown))}")
    if "feedforward_modules" in known:
        fields.setdefault("feedforward_modules", [])
    return cls(**fields, **common)


# Our parameter's name -> PEFT's, tried in this order.
RENAMES = [
    (r"^(.*)$", r"\1"),
    (r"^(.*)$", r"\1.weight"),  # a magnitude is a module of its own there
    (r"circulant_c\.", "c3a_kernel."),
]


def _kernel(c: Tensor) -> Tensor:
    """C3A's w from our c, where c[(i - j) mod b] = w[(j - i) mod b] / d_in; and the gradient of c from the one of w."""
    blocks = c.reshape(1, 1, -1) if c.dim() == 1 else c  # [m, q, b]
    return torch.roll(blocks.flip(-1), 1, -1) * (blocks.shape[1] * blocks.shape[2])


def mapping(ours: nn.Module, theirs: nn.Module) -> dict[str, Mapped]:
    """Our trained parameters' names -> PEFT's parameters.

    Raises:
        Unavailable: the tensors of the two do not fit, so they cannot be given equal values.
    """
    mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    other = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    found: dict[str, Mapped] = {}
    left = dict(other)
    for name, parameter in mine.items():
        names = [re.sub(pattern, replacement, name) for pattern, replacement in RENAMES]
        match = next((n for n in names if n in left), None)
        if match is None:
            raise Unavailable(f"HF PEFT has no parameter for {name} (bench/peers.py); left: {sorted(left)[:4]}")
        peer = left.pop(match)
        if "c3a_kernel" in match and "c3a_kernel" not in name:  # ours is a circulant, theirs C3A of one vector
            found[name] = Mapped(peer, _kernel, lambda g, shape=parameter.shape: _kernel(g).reshape(shape))
        elif peer.shape != parameter.shape:
            raise Unavailable(
                f"{name} is {list(parameter.shape)}, HF PEFT's {match} {list(peer.shape)} (bench/peers.py)"
            )
        else:
            found[name] = Mapped(peer)
    if left:
        raise Unavailable(f"HF PEFT also trains {sorted(left)[:4]} (bench/peers.py)")
    return found


def copy_frozen(ours: nn.Module, theirs: nn.Module) -> None:
    """Gives PEFT's adapter the frozen tensors that ours has (VeRA's projections)."""
    buffers = dict(theirs.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in ours.named_buffers():
            if name in buffers and tensor.is_floating_point():
                buffers[name].copy_(tensor)
