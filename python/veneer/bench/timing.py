# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The interleaved run, and what is read from it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from veneer.bench.contender import Contender, Sample

PHASES = ("forward", "backward", "step")  # step: forward, backward, and the optimizer where there is one
HOST = "host"  # of a GPU's times: until the host has issued the step
NOISY = 3.0  # points of tax that the floor may differ from itself
FEW = 8  # with fewer rounds neither a median nor the noise is worth much

Times = dict[str, dict[str, np.ndarray]]  # contender -> phase -> seconds, one for each round


def orders(n: int) -> list[list[int]]:
    """Rotations of a Williams design: over all of them each contender runs at each place, and after each other
    contender, equally often, so that what one leaves in the caches is everybody's."""
    base = [0]
    for i in range(1, n):
        base.append(n - (i + 1) // 2 if i % 2 else i // 2)
    forwards = [[(i + shift) % n for i in base] for shift in range(n)]
    return forwards if n % 2 == 0 else forwards + [order[::-1] for order in forwards]


@contextlib.contextmanager
def no_gc(collect: bool = True) -> Iterator[None]:
    """Keeps Python's garbage collector from running within the context."""
    was = gc.isenabled()
    if collect:
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _HostClock:
    """Marks on the CPU: operators have ended when they return."""

    warm = 0.0  # seconds of warm-up at least

    def prepare(self) -> None:
        pass

    def mark(self) -> float:
        return time.perf_counter()

    @staticmethod
    def seconds(marks: list[float]) -> list[float]:
        return [b - a for a, b in itertools.pairwise(marks)]


class _CudaClock:
    """Events on the stream. Before each contender its L2 cache holds nobody's data. With `ahead`, the device spins until
    the host has issued the whole step, as it is busy with other layers in a model: then the events bound work alone. Without, it
    is idle, and waits for the host wherever that is slower."""

    warm = 0.5  # clocks rise under load
    longest = 0.02  # seconds to spin
    cycles = 2e9  # in a second, about

    def __init__(self, device: torch.device, ahead: bool) -> None:
        size = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(2 * max(size, 1 << 20), dtype=torch.int8, device=device)
        self._ahead, self._spin = ahead, self.longest

    def issued(self, seconds: float) -> None:
        """Tells how long the host takes for a step at most."""
        self._spin = min(2 * seconds + 1e-4, self.longest)

    def prepare(self) -> None:
        torch.cuda.synchronize()
        self._flush.zero_()
        if self._ahead:
            torch.cuda._sleep(int(self._spin * self.cycles))
        else:
            torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @staticmethod
    def seconds(marks: list[torch.cuda.Event]) -> list[float]:
        marks[-1].synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


def interleave(
    contenders: list[Contender],
    sample: Sample,
    device: torch.device,
    *,
    rounds: int | None = None,
    budget: float = 10.0,
    warm_up: int = 3,
    at_least: int = FEW,
    at_most: int = 300,
    ahead: bool = True,
) -> Times:
    """Times all contenders in turn.

    Args:
        contenders: the first is the floor.
        sample: their common input.
        device: where they run.
        rounds: how often each runs; by default as many as fit into `budget` seconds, within `at_least` and `at_most`.
        budget: seconds.
        warm_up: rounds before, not counted; one where a round takes long, more where a GPU is not yet warm.
        at_least: fewest rounds, unless they take six budgets; never less than three.
        at_most: most rounds.
        ahead: on a GPU, whether the host is ahead of it, as it is in a large model. Then times are of the device alone,
            and the host's are told beside them.
    """
    cuda = device.type == "cuda"
    clock = _CudaClock(device, ahead) if cuda else _HostClock()
    phases = (*PHASES, HOST) if cuda else PHASES
    times: Times = {c.name: {phase: [] for phase in phases} for c in contenders}
    sequence = orders(len(contenders))

    def once(contender: Contender) -> list[float]:
        contender.clear(sample)
        clock.prepare()
        began = time.perf_counter()
        start = clock.mark()
        out = contender.forward(sample)
        middle = clock.mark()
        contender.backward(out, sample)
        late = clock.mark()
        contender.finish()
        end = clock.mark()
        host = time.perf_counter() - began
        seconds = clock.seconds([start, middle, late, end])
        return [seconds[0], seconds[1], sum(seconds), host]

    with no_gc():
        cold = time.perf_counter()
        for i in itertools.count():
            began = time.perf_counter()
            host = max(once(contenders[index])[-1] for index in sequence[i % len(sequence)])
            now = time.perf_counter()
            round_takes = now - began
            if cuda:
                clock.issued(host)
            slow = round_takes > budget / 20 and not cuda  # slow enough to be warm
            if slow or (i + 1 >= warm_up and now - cold >= clock.warm):
                break
        if rounds is None:
            affordable = max(3, min(at_least, int(6 * budget / round_takes)))
            rounds = int(min(max(budget / round_takes, affordable), at_most))
        for i in range(rounds):
            for index in sequence[i % len(sequence)]:
                for phase, seconds in zip(phases, once(contenders[index]), strict=False):
                    times[contenders[index].name][phase].append(seconds)
    for contender in contenders:
        contender.clear(sample)
    return {name: {phase: np.array(values) for phase, values in phases.items()} for name, phases in times.items()}


@dataclass
class Tax:
    """Time of a contender over another's, minus one: from the minima, and from the ratios within each round (median,
    and a 95 % interval of the median by bootstrap)."""

    minimum: float
    median: float
    low: float
    high: float


def tax(times: np.ndarray, floor: np.ndarray, resamples: int = 1000) -> Tax:
    """Compares two series of one run, paired by round."""
    ratios = times / floor - 1.0
    draws = np.random.default_rng(0).integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Tax(float(times.min() / floor.min() - 1.0), float(np.median(ratios)), float(low), float(high))
