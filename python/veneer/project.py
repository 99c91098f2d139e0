# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The best approximation of a given matrix in a structured family: to compress a trained update, to start an adapter from
one, or to compare families at equal size.

Nothing here knows a family. Where dense(parameters) is affine in some of the parameters, which is tried numerically,
these are fitted together by least squares with everything else fixed, block after block; then L-BFGS moves all at once.
A family with one such block (Toeplitz, circulant in its single form, block diagonal) is solved exactly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from veneer.adapted import AdaptedLayer, Adapter
from veneer.config import CONFIG_CLASSES
from veneer.method import Spec, bind, ops
from veneer.names import listed, suggestion

SWEEPS = 10  # of least squares over the blocks before L-BFGS takes over
INNER = 10  # steps of conjugate gradients within a sweep: the other blocks will move anyway
# Of L-BFGS between two looks at its progress, which alone end it.
CHUNK = {"max_iter": 25, "history_size": 25, "line_search_fn": "strong_wolfe", "tolerance_change": 1e-30}
EXACT = 1e-13  # relative error below which there is only rounding
RECOVERED = 1e-6  # relative error at which another start cannot be worth while


@dataclass(frozen=True)
class Projection:
    """A structured matrix M close to a target T.

    Attributes:
        matrix: the family, {"name": ..., options}.
        tensors: the parameters by name, in the target's dtype; what is frozen and shared between layers (VeRA's A and B)
            is not among them.
        dense: M [d_out, d_in] of these tensors, with the family's own scale (LoRA's alpha / r), in the target's dtype.
        error: ||T - M||, Frobenius.
        relative_error: error / ||T||; of a target of zeros, the error.
        parameters: how many numbers are trained.
        converged: False where `max_iterations` ended the start that gave this M.
        iterations: evaluations of M with its gradient, over all starts.
    """

    matrix: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)
    dense: Tensor = field(repr=False)
    error: float
    relative_error: float
    parameters: int
    converged: bool
    iterations: int

    @torch.no_grad()
    def load_into(self, model: nn.Module, module: str | None = None, adapter: str = "default") -> None:
        """Copies the parameters into an adapter, so that its update starts as M.

        Args:
            model: a model with adapters, or one adapted layer.
            module: path of the layer, as `explain()` shows it; needed for a model.
            adapter: its name. It must be additive with the same matrix and scaling 1 (divide the target by the scaling
                otherwise). Tensors that layers share are left as they are.

        Raises:
            ValueError: there is no such layer or adapter, it is merged, or with these parameters it would not add M
                (another matrix, options or scaling, DoRA, other shared tensors).
        """
        layer = _layer(model, module)
        if adapter not in layer.adapters:
            raise ValueError(
                f"[project] no adapter `{adapter}` at {layer.path}; there: {listed(layer.adapters)}"
                f"{suggestion(adapter, layer.adapters)}"
            )
        if adapter in layer.merged_adapters:
            raise ValueError(f"[project] `{adapter}` is merged into {layer.path}: unmerge_adapter() first")
        target = layer.adapters[adapter]
        names = [spec.name for spec in target.specs]
        here = [layer.site()["d_out"], layer.site()["d_in"], *(spec.shape for spec in target.specs)]
        ours = [*self.dense.shape, *(list(self.tensors[name].shape) for name in names if name in self.tensors)]
        if here != ours or not self._acts_as_dense(target, [self.tensors[name] for name in names]):
            raise ValueError(
                f"[project] with these parameters `{adapter}` at {layer.path} would not add the projected matrix: it must "
                f"be additive, not DoRA, with the matrix {self.matrix}, scaling 1 and the same shared tensors"
            )
        for (holder, slot), name in zip(target.own, names, strict=True):
            getattr(holder, slot).copy_(self.tensors[name])

    def _acts_as_dense(self, adapter: Adapter, own: list[Tensor]) -> bool:
        """Whether the method of `adapter` with these own tensors adds x M^T; tried with the unit vectors."""
        dense = self.dense.double()
        params = [t.to(dense) for t in [*own, *adapter.params()[len(own) :]]]
        zero, eye = torch.zeros_like(dense), torch.eye(dense.shape[1]).to(dense)
        update = adapter.method.forward(eye, zero.t().contiguous(), zero, None, params, None).t()
        rounding = 64 * torch.finfo(self.dense.dtype).eps
        return bool((update - dense).norm() <= rounding * dense.norm())


def _layer(model: nn.Module, module: str | None) -> AdaptedLayer:
    layers = {m.path: m for m in model.modules() if isinstance(m, AdaptedLayer)}
    if module is None and isinstance(model, AdaptedLayer):
        return model
    if module not in layers:
        known = listed(list(layers)[:8]) or "none"
        raise ValueError(
            f"[project] expected the path of an adapted layer, got {module}; there: {known}{suggestion(str(module), layers)}"
        )
    return layers[module]


def project(
    matrix: str | Mapping[str, Any],
    target: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    restarts: int = 3,
    seed: int = 0,
) -> Projection:
    """The matrix of a structured family that is closest to `target` in the Frobenius norm.

    Exact (up to rounding) for families that are linear in their parameters, and for low-rank and two-factor Kronecker
    matrices as far as `tolerance` goes. Other products of parameters have several local minima: the best of several
    random starts is returned. Computed in float64 on the target's device.

    Args:
        matrix: name of a family, or {"name": ..., options}, as in `AdditiveConfig(matrix=...)`.
        target: [d_out, d_in], floating point, finite.
        tolerance: a start has converged when a round of steps lowers its error by less than this fraction.
        max_iterations: evaluations of the matrix with its gradient for each start; time grows with it, memory does not.
        restarts: random starts. Fewer are made where one is enough: the family is linear, or the target is found in it.
        seed: of the starts. The global generator is left as it was.

    Returns:
        The projection, on the target's device and in its dtype.

    Raises:
        ValueError: target is no matrix, is empty or is not finite; a limit is out of range; or what the family refuses
            (unknown name or options, sizes).
    """
    _check(target, tolerance, max_iterations, restarts)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(target.device.type, enabled=False),
        torch.random.fork_rng(devices=[]),
    ):
        torch.default_generator.manual_seed(seed)
        wanted = target.detach().double().clone()
        size = wanted.norm().item()
        family = _Family(matrix, wanted)
        best, used = None, 0
        for _ in range(1 if family.linear else restarts):
            search = _Search(family, wanted, max_iterations)
            search.run(tolerance)
            used += search.used
            best = search if best is None or search.error < best.error else best
            if best.error <= RECOVERED:
                break
        with torch.no_grad():
            tensors = {name: t.to(target.dtype) for name, t in family.tensors(best.theta).items()}
            dense = family.dense({name: t.double() for name, t in tensors.items()})  # of what is returned: rounded
            error = (wanted - dense).norm().item()
    return Projection(
        matrix=family.matrix,
        tensors={name: t for name, t in tensors.items() if name in family.returned},
        dense=dense.to(target.dtype),
        error=error,
        relative_error=error / (size or 1.0),
        parameters=family.count,
        converged=best.converged,
        iterations=used,
    )


def _check(target: Tensor, tolerance: float, max_iterations: int, restarts: int) -> None:
    if target.dim() != 2 or target.numel() == 0:
        raise ValueError(f"[project] target must be a matrix [d_out, d_in], got shape {list(target.shape)}")
    if not target.is_floating_point():
        raise ValueError(f"[project] target must be of a floating-point dtype, got {target.dtype}")
    if not target.isfinite().all():
        raise ValueError("[project] target must be finite, got NaN or infinity")
    if not (0.0 < tolerance < 1.0 and max_iterations >= 1 and restarts >= 1):
        raise ValueError(
            "[project] tolerance must be between 0 and 1, max_iterations and restarts at least 1; got "
            f"{tolerance}, {max_iterations}, {restarts}"
        )


class _Family:
    """A family bound to one size, as a function of one vector theta [count]: its trained tensors end to end."""

    def __init__(self, matrix: str | Mapping[str, Any], like: Tensor) -> None:
        self.matrix = {"name": matrix} if isinstance(matrix, str) else dict(matrix)
        options = {"matrix": self.matrix, "start": "random"}
        config = CONFIG_CLASSES["METHOD"](method="additive", options=options, target_modules=["target"])
        d_out, d_in = like.shape
        site = {"kind": "linear", "d_in": d_in, "d_out": d_out, "has_weight": True, "has_bias": False}
        (self.method,), shared = bind(config.to_dict(), [site])
        self.zero = torch.zeros_like(like)
        self.shared = json.dumps(shared)
        self.specs = [*self.method.own, *(Spec(s["name"], s["shape"], s["key"], s["trainable"]) for s in shared)]
        self.drawn = self._draw()  # of which what is frozen stays
        self.trained = [spec for spec in self.specs if spec.trainable]
        self.returned = {spec.name for spec in [*self.method.own, *self.trained]}
        sizes = [math.prod(spec.shape) for spec in self.trained]
        self.count = sum(sizes)
        self.pieces = torch.arange(self.count, device=like.device).split(sizes)
        self._structure()

    def _draw(self) -> list[Tensor]:
        shared = ops.initial_shared(self.shared, self.zero.dtype, self.zero.device)
        return [*self.method.start(None, shared, self.zero.dtype, self.zero.device), *shared]

    def start(self) -> Tensor:
        """A random theta. The core's own random start, and noise: a factor of zeros would have no gradient."""
        parts = []
        for spec, p in zip(self.specs, self._draw(), strict=True):
            if spec.trainable:
                noise = torch.randn(p.shape, dtype=p.dtype).to(p.device)
                size = p.square().mean().sqrt()
                parts.append((p + (0.1 * size if size > 0.0 else 1.0) * noise).flatten())
        return torch.cat(parts)

    def tensors(self, theta: Tensor) -> dict[str, Tensor]:
        """All tensors by name, in the order in which the method takes them."""
        parts = iter(theta.split([len(piece) for piece in self.pieces]))
        return {
            spec.name: next(parts).view(spec.shape) if spec.trainable else p
            for spec, p in zip(self.specs, self.drawn, strict=True)
        }

    def __call__(self, theta: Tensor) -> Tensor:
        return self.dense(self.tensors(theta))

    def dense(self, tensors: dict[str, Tensor]) -> Tensor:
        return self.method.weight(self.zero, list(tensors.values()))

    def along(self, theta: Tensor, index: Tensor) -> Callable[[Tensor], Tensor]:
        """The matrix as a function of some elements of theta."""
        return lambda x: self(theta.index_copy(0, index, x))

    def _structure(self) -> None:
        """Divides theta into blocks in which the matrix is affine, tried at a random point. A tensor that is none, such as
        the factors of a butterfly side by side, may be several. With each block: whether its elements contribute
        orthogonal matrices, so that least squares needs no iteration."""
        theta, indices, loose = self.start(), [], False
        for spec, piece in zip(self.trained, self.pieces, strict=True):
            if not self._affine(theta, piece):
                parts = piece.view(spec.shape).flatten(1) if len(spec.shape) > 1 else ()
                slices = [part for part in parts if self._affine(theta, part)]
                indices += slices
                loose |= len(slices) < len(parts) or not slices
                continue
            for i, other in enumerate(indices):
                if self._affine(theta, joined := torch.cat([other, piece])):
                    indices[i] = joined
                    break
            else:
                indices.append(piece)
        self.blocks = [(index, self._orthogonal(theta, index)) for index in indices]
        self.linear = len(indices) == 1 and not loose

    @torch.no_grad()
    def _affine(self, theta: Tensor, index: Tensor) -> bool:
        f = self.along(theta, index)
        for spread in (1.0, 8.0):  # the second for functions that bend only far away
            x, y = spread * torch.randn(2, len(index), dtype=theta.dtype).to(theta.device)
            a, b = f(x), f(y)
            bent = (2 * f((x + y) / 2) - a - b).norm() + (f(3 * x - 2 * y) - 3 * a + 2 * b).norm()
            if not bent <= 1e-9 * (a.norm() + b.norm()):  # nor is affine what overflows
                return False
        return True

    def _orthogonal(self, theta: Tensor, index: Tensor) -> bool:
        affine = _Affine(self.along(theta, index), theta.new_zeros(len(index)))
        signs = (torch.randint(0, 2, (2, len(index))) * 2.0 - 1.0).to(theta)
        first, second = (z * affine.adjoint(affine(z)) for z in signs)
        return bool((first - second).abs().max() <= 1e-10 * first.abs().max())


class _Affine:
    """The linear part x [n] -> J x [d_out, d_in] of an affine function, and its adjoint."""

    def __init__(self, function: Callable[[Tensor], Tensor], origin: Tensor) -> None:
        self.function = function
        self.origin = origin.requires_grad_()
        self.value = function(self.origin)
        self.offset = self.value.detach()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x) - self.offset

    def adjoint(self, w: Tensor) -> Tensor:
        # The graph is kept: the derivative of an affine function is the same everywhere.
        return torch.autograd.grad(self.value, self.origin, w, retain_graph=True)[0]


class _Search:
    """One random start, improved until it converges or has used its evaluations of the matrix with its gradient."""

    def __init__(self, family: _Family, target: Tensor, limit: int) -> None:
        self.family, self.target, self.limit = family, target, limit
        self.size = target.norm().item() or 1.0
        self.theta, self.error = (
            family.start(),
            math.inf,
        )  # the best so far, and its error relative to the target's norm
        self.used, self.converged = 0, False

    def run(self, tolerance: float) -> None:
        if self.family.linear:
            self.converged = self._least_squares(*self.family.blocks[0], self.limit, 1e-12, fresh=True)
            return
        self._sweep()
        while not self.converged and self.used < self.limit:
            before = self.error
            self._descend(tolerance)
            self._sweep()
            self.converged = self.error <= EXACT or before - self.error <= tolerance * self.error

    def _sweep(self) -> None:
        """Least squares, block after block, while that helps much and takes less than a third of what is left."""
        stop, fresh = self.used + (self.limit - self.used) // 3, math.isinf(self.error)
        for _ in range(SWEEPS if self.family.blocks else 0):
            before = self.error
            for index, orthogonal in self.family.blocks:
                self._least_squares(index, orthogonal, INNER, 1e-2, fresh)
                fresh = False
            if self.error <= EXACT or before - self.error <= 0.01 * self.error or self.used >= stop:
                return

    def _least_squares(self, index: Tensor, orthogonal: bool, steps: int, tolerance: float, fresh: bool) -> bool:
        """Improves the elements of a block by conjugate gradients on the normal equations (CGLS), each step of which
        lowers the error. `fresh`: from zero. Returns whether the gradient has fallen by `tolerance`."""
        x = self.theta[index] * (not fresh)
        affine = _Affine(self.family.along(self.theta, index), torch.zeros_like(x))
        residual = self.target - affine.offset - affine(x)
        scale = torch.ones_like(x)
        if orthogonal:  # then J^T J is diagonal, and in this scale one step is enough
            weight = affine.adjoint(affine(scale)).clamp(min=0.0)
            scale = torch.where(weight > 1e-20 * weight.max(), weight.rsqrt(), 0.0)
        p, square, goal = torch.zeros_like(x), math.inf, None
        for step in range(steps + 1):
            s = scale * affine.adjoint(residual)
            last, square = square, s.dot(s)
            goal = tolerance**2 * square if goal is None else goal
            if square <= goal * (step > 0) or step == steps:
                break
            p = s + square / last * p
            image = affine(scale * p)
            length = square / image.square().sum()
            x, residual = x + length * scale * p, residual - length * image
        self.used += step + 1 + orthogonal
        self._offer(self.theta.index_copy(0, index, x), residual.norm().item() / self.size)
        return bool(square <= goal)

    def _descend(self, tolerance: float) -> None:
        """L-BFGS on all parameters, in units in which they matter equally."""
        scale = self._units()
        q = (self.theta / scale).requires_grad_()
        optimizer = torch.optim.LBFGS([q], tolerance_grad=1e-10 * self.error, **CHUNK)

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = ((self.target - self.family(q * scale)) / self.size).square().sum()
            value.backward()
            self.used += 1
            value = value.detach().nan_to_num(nan=math.inf, posinf=math.inf)  # from which the line search steps back
            self._offer(q.detach() * scale, value.sqrt().item())
            return value

        while self.used < self.limit and self.error > EXACT:
            before = self.error
            optimizer.step(loss)
            if before - self.error <= tolerance * self.error:
                break

    def _units(self) -> Tensor:
        """For each parameter the change that moves the matrix by about the target's norm: equal within a tensor, from the
        norm of its Jacobian, as random signs estimate it."""
        theta = self.theta.clone().requires_grad_()
        signs = (torch.randint(0, 2, self.target.shape) * 2.0 - 1.0).to(self.target)
        (slope,) = torch.autograd.grad(self.family(theta), theta, signs)
        self.used += 1
        units = torch.ones_like(slope)
        for piece in self.family.pieces:
            unit = self.size * len(piece) ** 0.5 / slope[piece].norm()
            units[piece] = unit if unit.isfinite() else 1.0
        return units

    def _offer(self, theta: Tensor, error: float) -> None:
        if error < self.error:
            self.theta, self.error = theta, error
