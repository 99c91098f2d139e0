# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a step goes: operators of the floor and of our step, side by side, by torch's profiler."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from veneer.bench.cases import Case
from veneer.bench.contender import FLOOR, OURS, PEER, Contender, Sample
from veneer.bench.runner import Settings, build


def _self_times(contender: Contender, sample: Sample, steps: int, cuda: bool) -> dict[str, tuple[float, int]]:
    """Operator -> (milliseconds of its own, calls) in a step."""
    for _ in range(2):
        contender.clear(sample)
        contender.step(sample)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    found: dict[str, tuple[float, int]] = {}
    for _ in range(steps):
        contender.clear(sample)  # outside the profile, as in the timing
        with profile(activities=activities, acc_events=True) as profiler:
            contender.step(sample)
        for event in profiler.key_averages():
            time = event.self_device_time_total if cuda else event.self_cpu_time_total
            before = found.get(event.key, (0.0, 0))
            found[event.key] = before[0] + time / 1e3 / steps, before[1] + event.count
    return {key: (time, count // steps) for key, (time, count) in found.items()}


def profile_case(case: Case, settings: Settings, steps: int = 3, lines: int = 16) -> Table:
    """A table of the operators that our step spends most in beyond the floor's."""
    ground = build(case, settings)
    chosen = {c.name: c for c in ground.contenders if c.name in (FLOOR, OURS, PEER)}
    times = {name: _self_times(c, ground.sample, steps, settings.device.type == "cuda") for name, c in chosen.items()}

    def beyond(key: str) -> float:
        return times[OURS].get(key, (0.0, 0))[0] - times[FLOOR].get(key, (0.0, 0))[0]

    table = Table(
        title=f"{case.id}: operators by what we spend beyond the floor, ms of their own in a step", title_justify="left"
    )
    table.add_column("operator")
    for name in [*times, "beyond the floor"]:
        table.add_column(name, justify="right")
    keys = sorted(times[OURS], key=beyond, reverse=True)[:lines]
    for key in keys:
        table.add_row(key, *(_cell(times[name].get(key)) for name in times), f"{beyond(key):+.3f}")
    table.add_section()
    table.add_row(
        "all",
        *(f"{_total(t.values()):.2f}" for t in times.values()),
        f"{_total(times[OURS].values()) - _total(times[FLOOR].values()):+.2f}",
    )
    return table


def _cell(value: tuple[float, int] | None) -> str:
    return "-" if value is None else f"{value[0]:.3f} ({value[1]}x)"


def _total(values: Iterable[tuple[float, int]]) -> float:
    return sum(time for time, _ in values)
