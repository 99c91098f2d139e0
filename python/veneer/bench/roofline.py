# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The cost model: the least work a method can add to its frozen layer, and so how close a measured step is to what the
machine allows. A method or matrix that has no entry here is measured all the same, only without this figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from veneer.bench.machine import Constants


@dataclass
class Work:
    """Arithmetic and traffic of a step, forward and backward together."""

    gemm: float = 0.0  # FLOP in matrix products
    fft: float = 0.0  # FLOP in transforms
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.gemm + other.gemm, self.fft + other.fft, self.bytes + other.bytes)

    def seconds(self, constants: Constants, dtype: str) -> float:
        """The roofline: arithmetic and traffic overlap perfectly, and transforms run at the rate of the fastest products."""
        arithmetic = self.gemm / constants.gemm[dtype] + self.fft / max(constants.gemm.values())
        return max(arithmetic, self.bytes / constants.copy)


@dataclass
class Site:
    """A layer with its input: n tokens, e bytes for an element."""

    n: int
    d_in: int
    d_out: int
    e: int

    @property
    def x(self) -> float:
        """One pass over the input."""
        return float(self.n * self.d_in * self.e)

    @property
    def y(self) -> float:
        """One pass over the output."""
        return float(self.n * self.d_out * self.e)

    @property
    def w(self) -> float:
        return float(self.d_in * self.d_out * self.e)


def floor(site: Site, linear: bool = True) -> Work:
    """Two products; or a copy of a hidden state, forward and backward."""
    if not linear:
        return Work(bytes=4 * site.x)
    return Work(gemm=4.0 * site.n * site.d_in * site.d_out, bytes=2 * (site.x + site.y + site.w))


def _low_rank(site: Site, options: dict[str, Any]) -> Work:
    # Forward reads x once, backward dy and x once; what is written rides on the base's products.
    return Work(gemm=6.0 * site.n * options["rank"] * (site.d_in + site.d_out), bytes=2 * site.x + site.y)


def _vera(site: Site, options: dict[str, Any]) -> Work:
    # No gradient for the frozen pair, so backward does not need x.
    return Work(gemm=4.0 * site.n * options["rank"] * (site.d_in + site.d_out), bytes=site.x + site.y)


def _dense(site: Site, options: dict[str, Any]) -> Work:  # noqa: ARG001
    # W + M once, and the weight's gradient.
    return Work(gemm=2.0 * site.n * site.d_in * site.d_out, bytes=5 * site.w + site.x + site.y)


def _circulant(site: Site, options: dict[str, Any]) -> Work:
    # W + M for the two products, as a dense M, and for the parameters' gradient transforms of x and dy, one pass over each.
    g = options["block_size"] or math.gcd(site.d_in, site.d_out)
    transforms = 2.5 * site.n * (site.d_in + site.d_out) * math.log2(max(g, 2))
    products = 8.0 * site.n * (g // 2 + 1) * math.ceil(site.d_in / g) * math.ceil(site.d_out / g)
    return Work(fft=transforms + products, bytes=2 * site.w + site.x + site.y)


def _convolution(site: Site, length: int, factors: int = 1) -> Work:
    """The same for cyclic convolutions of a length; of a product of two, each factor's gradient has transforms of its own."""
    transforms = 2 * factors * 2.5 * site.n * length * math.log2(max(length, 2))
    return Work(fft=transforms + factors * 8.0 * site.n * (length // 2 + 1), bytes=2 * site.w + site.x + site.y)


def _toeplitz(site: Site, options: dict[str, Any]) -> Work:  # noqa: ARG001
    return _convolution(site, site.d_in + site.d_out - 1)


def _symmetric_toeplitz(site: Site, options: dict[str, Any]) -> Work:
    return _convolution(site, 2 * max(site.d_in, site.d_out) - 1, 2 if options["form"] == "product" else 1)


def _square(n: int) -> tuple[int, int]:
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return small, n // small


def _lokr(site: Site, options: dict[str, Any]) -> Work:  # noqa: ARG001
    # M = [o1, i1] (x) [o2, i2]: the cheaper order of its two products, three times.
    (i1, i2), (o1, o2) = _square(site.d_in), _square(site.d_out)
    least = min(i1 * i2 * o2 + i1 * o2 * o1, i1 * i2 * o1 + i2 * o1 * o2)
    return Work(gemm=3 * 2.0 * site.n * least, bytes=4 * site.x + 2 * site.y)


MATRICES: dict[str, Callable[[Site, dict[str, Any]], Work]] = {
    "low_rank": _low_rank,
    "block_circulant": _circulant,
    "toeplitz": _toeplitz,
    "hankel": _toeplitz,
    "symmetric_toeplitz": _symmetric_toeplitz,
    "lokr": _lokr,
    "monarch": _low_rank,
    "vera": _vera,
    "dense": _dense,
    "circulant": _circulant,
}


def _named(value: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return (value, {}) if isinstance(value, str) else (value["name"], value)


def _additive(site: Site, options: dict[str, Any]) -> Work | None:
    name, own = _named(options["matrix"])
    if name not in MATRICES:
        return None
    work = MATRICES[name](site, own)
    if options["decompose"]:  # the rows' norms, and the magnitude's gradient
        rank = own.get("rank", min(site.d_in, site.d_out))
        work += Work(gemm=2.0 * site.d_in * site.d_out * rank, bytes=site.w + site.y)
    if options["dropout"]:
        work += Work(bytes=2 * site.n * site.d_in / 8)  # a bit for an element, written and read
    return work


def _ia3(site: Site, options: dict[str, Any]) -> Work:
    # The product's epilogue, and one pass for the gradient.
    return Work(bytes=site.x if options["position"] == "input" else site.y)


def _bottleneck(site: Site, options: dict[str, Any]) -> Work | None:
    if (_named(options["down"])[0], _named(options["up"])[0]) != ("dense", "dense"):
        return None
    m = options["size"] or max(1, int(site.d_in / options["reduction_factor"]))
    return Work(gemm=12.0 * site.n * site.d_in * m, bytes=site.x)  # five passes, of which the floor makes four


METHODS: dict[str, Callable[[Site, dict[str, Any]], Work | None]] = {
    "additive": _additive,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
}


def added(method: str, options: dict[str, Any], site: Site) -> Work | None:
    """The least work that a method adds to a site; None where this file does not know."""
    return METHODS[method](site, options) if method in METHODS else None
