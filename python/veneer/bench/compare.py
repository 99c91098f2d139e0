# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Contenders are timed only after they were seen to compute the same thing: equal parameters give equal outputs and
gradients, and dropout drops what it should."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from veneer.bench.contender import Contender, Sample

# A contender may err by this multiple of what plain PyTorch errs by in the same precision, and by this many roundings.
TIMES_PLAIN = 4.0
ROUNDINGS = {torch.float32: 100.0, torch.bfloat16: 3.0, torch.float16: 10.0, torch.float64: 1e4}


class Mismatch(AssertionError):
    """Two contenders that should compute the same thing do not."""


@dataclass
class Agreement:
    """How far a contender is from the oracle. `error`: the largest relative error of output and gradients; `allowed`:
    what was allowed for that tensor."""

    against: str
    error: float
    allowed: float


def randomise(contender: Contender, floor: Contender, sample: Sample, names: list[str], attempts: int = 8) -> None:
    """Gives the adapter's parameters random values, of a size at which the adapter changes the output about as much as
    the base makes of it: an adapter that starts at zero would hide errors and branches.

    Raises:
        Mismatch: the adapter does not act.
    """
    generator = torch.Generator().manual_seed(0)

    def noise(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator).to(t)

    zeros = []
    with torch.no_grad():
        for name in names:
            parameter = contender.parameters[name].parameter
            rms = parameter.double().square().mean().sqrt().item()
            if rms == 0.0:
                zeros.append(parameter)
            std = 0.3 * rms or 1.0 / math.sqrt(parameter.shape[-1])
            parameter.add_(noise(parameter), alpha=std)
        base = output(floor, sample)
        for _ in range(attempts):
            change = relative(output(contender, sample), base)
            if 0.1 <= change <= 3.0 or not zeros:
                break
            factor = min(max(0.7 / max(change, 1e-6), 1e-3), 1e3)
            for parameter in zeros:
                parameter.mul_(factor)
    if not 0.01 <= change <= 100.0:
        raise Mismatch(
            f"{contender.name}: random parameters change the output by {change:.2g} of its size; does the adapter act?"
        )


def output(contender: Contender, sample: Sample) -> Tensor:
    """The output (a model's logits), dropout off."""
    with torch.no_grad(), evaluating(contender):
        out = contender.module(*sample.args, **sample.kwargs)
        return out if isinstance(out, Tensor) else out.logits


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm().clamp_min(1e-300)).item()


@contextlib.contextmanager
def evaluating(contender: Contender) -> Iterator[None]:
    """Dropout off, of the contender's whole model."""
    modules = [m for m in (contender.module, contender.scope) if isinstance(m, nn.Module)]
    was = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, was, strict=True):
            module.train(training)


def results(contender: Contender, sample: Sample) -> dict[str, Tensor]:
    """Output, input gradients and, under our names and in our layout, parameter gradients; dropout off."""
    with evaluating(contender):
        contender.clear_gradients(sample)
        out = contender.module(*sample.args, **sample.kwargs)
        loss = out if isinstance(out, Tensor) else out.loss
        found = {"output": (out if isinstance(out, Tensor) else out.logits).detach()}
        contender.backward(loss, sample)
    for i, leaf in enumerate(sample.leaves):
        found[f"gradient of input {i}"] = leaf.grad
    for name, mapped in contender.parameters.items():
        if mapped.parameter.grad is None:
            raise Mismatch(f"{contender.name}: no gradient for {name}")
        found[f"gradient of {name}"] = mapped.grad_to_ours(mapped.parameter.grad)
    contender.clear_gradients(sample)
    return found


def oracle(plain: Contender, sample: Sample) -> dict[str, Tensor]:
    """The plain contender's results in float64."""
    module, scope, parameters = copy.deepcopy((plain.module, plain.scope, plain.parameters))
    for part in (module, scope):
        if isinstance(part, nn.Module):
            part.double()
    return results(Contender("float64", module, parameters, scope=scope), sample.cast(torch.float64))


def compare(
    contenders: list[Contender],
    plain: Contender | None,
    sample: Sample,
    dtype: torch.dtype,
    optional: Collection[str] = (),
) -> tuple[dict[str, Agreement], dict[str, str]]:
    """Compares contenders with the oracle, or, where there is no plain one, with the first of them. The second result says
    of those named in `optional` which are off, and by how much; they have no agreement.

    Raises:
        Mismatch: another differs by more than rounding explains.
    """
    if plain is not None:
        truth, against = oracle(plain, sample), "plain in float64"
        own = {key: relative(value, truth[key]) for key, value in results(plain, sample).items()}
    else:
        truth, against = results(contenders[0], sample), contenders[0].name
        own = {}
    rounding = ROUNDINGS[dtype] * torch.finfo(dtype).eps
    found: dict[str, Agreement] = {}
    off: dict[str, str] = {}
    for contender in contenders:
        if contender is plain:
            worst = max(own, key=own.get)
            found[contender.name] = Agreement(against, own[worst], math.nan)
            continue
        if plain is None and contender is contenders[0]:
            continue
        worst = Agreement(against, 0.0, rounding)
        for key, value in results(contender, sample).items():
            if contender.uncompared and re.match(contender.uncompared, key):
                continue
            error, allowed = relative(value, truth[key]), TIMES_PLAIN * own.get(key, rounding) + rounding
            if not error <= allowed:  # NaN too
                said = (
                    f"{contender.name}: {key} is off by {error:.2e} of its size from {against}, allowed {allowed:.2e}"
                )
                if contender.name not in optional:
                    raise Mismatch(said)
                off[contender.name] = said
                break
            if error / allowed >= worst.error / worst.allowed:
                worst = Agreement(against, error, allowed)
        else:
            found[contender.name] = worst
    return found, off


def check_dropout(contender: Contender, floor: Contender, sample: Sample, p: float, linear: bool) -> None:
    """Checks, at a linear layer, that dropout with probability p acts on the input of the update, in forward and
    backward alike, where the update is M dropout(x) with a matrix M: the mean square of what dropout changes is p /
    (1 - p) times the one of (M * M)(x * x); and with D the mask, <D x, M^T dy> from backward is <M D x, dy> from
    forward. With `linear`, each parameter enters M linearly, and then that is also <parameter, its gradient>.

    Raises:
        Mismatch: it does not.
    """
    (x,) = sample.args
    wide = torch.promote_types(x.dtype, torch.float32)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    still, base = output(contender, sample), output(floor, sample)
    M = (output(contender, Sample((eye,))).to(wide) - output(floor, Sample((eye,))).to(wide)).t()
    contender.clear_gradients(sample)
    dropped = contender.module(x)
    delta = dropped.detach().to(wide) - base.to(wide)
    got = (dropped.detach().to(wide) - still.to(wide)).square().sum().item()
    expected = p / (1 - p) * (x.detach().to(wide).square() @ M.t().square()).sum().item()
    if not 0.8 <= got / expected <= 1.25:
        raise Mismatch(
            f"{contender.name}: dropout changes the output by {got**0.5:.3g}, {expected**0.5:.3g} expected for p = {p}"
        )
    dropped.backward(delta.to(x.dtype))
    gradient = x.grad.to(wide)
    plain_part = delta @ _weight(floor).to(wide)
    forward, backward = delta.square().sum().item(), ((gradient - plain_part) * x.detach().to(wide)).sum().item()
    pairs = {} if re.match(contender.uncompared or "$", "gradient of input 0") else {"the input's gradient": backward}
    if linear:
        pairs |= {
            f"the gradient of {n}": (m.parameter.grad.to(wide) * m.parameter.detach().to(wide)).sum().item()
            for n, m in contender.parameters.items()
        }
    for what, value in pairs.items():
        if abs(value / forward - 1) > 0.04:
            raise Mismatch(
                f"{contender.name}: {what} does not belong to the mask of forward ({value:.4g}, expected {forward:.4g})"
            )
    contender.clear_gradients(sample)


def _weight(floor: Contender) -> Tensor:
    return next(p for name, p in floor.module.named_parameters() if name.endswith("weight")).detach()
