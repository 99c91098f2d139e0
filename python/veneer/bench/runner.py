# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Runs cases: build, compare, time, count bytes; one row for each contender."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from veneer import base
from veneer.bench import layer, memory, models, roofline, timing
from veneer.bench.assemble import Field, assemble
from veneer.bench.cases import Case
from veneer.bench.compare import Mismatch
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, OURS, PEER, PLAIN, Contender, dtype_of
from veneer.bench.machine import Constants
from veneer.bench.peers import Unavailable


@dataclass
class Settings:
    """How to run. `budget`: seconds of timing for a case where `repeats` does not fix the number of rounds."""

    device: torch.device
    quick: bool = False
    repeats: int | None = None
    compiled: bool = False

    def budget(self, case: Case) -> float:
        if self.quick:
            return 0.3
        if self.device.type == "cuda":  # where a round takes milliseconds
            return 8.0 if case.model else 4.0
        return 90.0 if case.model else 10.0

    @property
    def fewest(self) -> int:
        """Rounds of a case at least, where they can be afforded."""
        return 3 if self.quick else timing.FEW

    @property
    def slowest(self) -> float:
        """Seconds that a step of the floor may take, or the case is left out."""
        return 5.0 if self.quick else 15.0


@dataclass
class Row:
    """One contender of one case. The names are the keys of the JSON file: they are added to, never renamed. Times in
    milliseconds; taxes are fractions of the floor's time in the same run (0.07 = 7 %), `_low` and `_high` the 95 %
    interval of the median; None: not measured, or it has no meaning here."""

    id: str
    level: str
    variant: str
    method: str
    site: str
    contender: str
    device: str
    dtype: str
    adapter_dtype: str
    dropout: float
    tokens: int
    d_in: int | None = None
    d_out: int | None = None
    model: str | None = None
    targets: str | None = None
    fields: dict[str, Any] | None = None
    quick: bool = False
    rounds: int | None = None
    forward_min_ms: float | None = None
    forward_median_ms: float | None = None
    forward_tax_min: float | None = None
    forward_tax_median: float | None = None
    forward_tax_low: float | None = None
    forward_tax_high: float | None = None
    backward_min_ms: float | None = None
    backward_median_ms: float | None = None
    backward_tax_min: float | None = None
    backward_tax_median: float | None = None
    backward_tax_low: float | None = None
    backward_tax_high: float | None = None
    step_min_ms: float | None = None
    step_median_ms: float | None = None
    step_tax_min: float | None = None
    step_tax_median: float | None = None
    step_tax_low: float | None = None
    step_tax_high: float | None = None
    step_over_plain: float | None = None  # median of paired ratios of times
    step_over_peft: float | None = None
    host_ms: float | None = None  # on a GPU: until the host has issued the step, median
    copy_ms: float | None = None  # of a layer: a copy of its input at the bandwidth measured
    noise_points: float | None = (
        None  # the floor against itself, in points: the worst of minimum, median, half the interval
    )
    noisy: bool | None = None
    trainable: int | None = None
    saved_bytes: int | None = None  # kept for backward, parameters excluded
    saved_input_bytes: int | None = None  # the part of it that is the case's own input
    saved_added_bytes: int | None = None  # beyond the floor and the input
    saved_allocator_bytes: int | None = None
    saved_agree: bool | None = None
    peak_bytes: int | None = None
    bound_ms: float | None = None  # what the method must add by the cost model; the floor's row: the floor itself
    added_ms: float | None = None  # what it does add, by the medians; the floor's row: the floor itself
    roofline: float | None = None  # bound / added, 1 is perfect
    compared_with: str | None = None
    compare_error: float | None = None
    compare_allowed: float | None = None
    path: str | None = None  # ours: what `explain` says, e.g. "fused"
    note: str | None = None
    error: str | None = None


ROW_KEYS = [f.name for f in dataclasses.fields(Row)]


def _row(case: Case, settings: Settings, contender: str, **more: Any) -> Row:
    tokens = case.tokens or math.prod(models.size(case, settings.quick))
    return Row(
        case.id,
        case.level,
        case.variant.name,
        case.variant.method,
        case.variant.kind,
        contender,
        settings.device.type,
        case.dtype,
        case.adapter_dtype,
        case.dropout,
        tokens,
        case.d_in or None,
        case.d_out or None,
        case.model or None,
        case.targets or None,
        dict(case.variant.fields),
        settings.quick,
        **more,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peers, about their configurations
        yield


def build(case: Case, settings: Settings) -> Field:
    """The contenders of a case, compared."""
    with _quiet():
        ground = (
            models.ground(case, settings.device, settings.quick) if case.model else layer.ground(case, settings.device)
        )
        if settings.repeats is None and (seconds := _floor_seconds(ground)) > settings.slowest:
            raise Unavailable(
                f"left out: a step of the floor alone takes {seconds:.0f} s here; --repeats N measures it all the same"
            )
        assemble(case, ground, compiled=settings.compiled)
    return ground


def _floor_seconds(ground: Field) -> float:
    """The better of two steps of the floor: enough to tell a case that would take hours."""
    found = []
    for _ in range(2):
        began = time.perf_counter()
        ground.floors[0].step(ground.sample)
        if ground.floors[0].on_cuda():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
        ground.floors[0].clear_gradients(ground.sample)
    return min(found)


def run_case(case: Case, settings: Settings, constants: Constants | None = None) -> list[Row]:
    """Measures a case. A mismatch, or a case that cannot be built, gives a row with `error`; a contender that cannot
    take part a row with a `note` and no times."""
    try:
        ground = build(case, settings)
        return _measured(case, ground, settings, constants)
    except Unavailable as reason:
        return [_row(case, settings, OURS, note=str(reason))]
    except Mismatch as error:
        return [_row(case, settings, OURS, error=f"not measured, since {error}")]
    except Exception as error:  # one case must not end a run of hours; the exit status tells
        return [_row(case, settings, OURS, error=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")]


def _measured(case: Case, ground: Field, settings: Settings, constants: Constants | None) -> list[Row]:
    times = timing.interleave(
        ground.contenders,
        ground.sample,
        settings.device,
        rounds=settings.repeats,
        budget=settings.budget(case),
        at_least=settings.fewest,
        ahead=not case.model,
    )
    floor = times[FLOOR]
    against_itself = timing.tax(times[FLOOR_AGAIN]["step"], floor["step"])
    width = (against_itself.high - against_itself.low) / 2
    noise = 100 * max(abs(against_itself.minimum), abs(against_itself.median), width)
    kept = {c.name: memory.measure(c, ground.sample, settings.device) for c in ground.contenders}
    bounds = _bounds(case, ground, constants, settings)
    rows = []
    for contender in ground.contenders:
        name = contender.name
        row = _row(
            case,
            settings,
            name,
            rounds=len(floor["step"]),
            noise_points=noise,
            noisy=noise > timing.NOISY,
            note=contender.note or None,
        )
        _put_times(row, times, name)
        if constants is not None and not case.model:
            row.copy_ms = 2e3 * ground.sample.args[0].nbytes / constants.copy
        _put_memory(row, kept[name], kept[FLOOR], contender)
        if name in ground.agreement:
            agreement = ground.agreement[name]
            row.compared_with, row.compare_error = agreement.against, agreement.error
            row.compare_allowed = None if math.isnan(agreement.allowed) else agreement.allowed
        if name == OURS:
            row.path = ", ".join(sorted(ground.paths))
        _put_roofline(row, bounds, times, name)
        rows.append(row)
    rows += [_row(case, settings, name, note=reason) for name, reason in ground.absent.items()]
    return rows


def _put_times(row: Row, times: timing.Times, name: str) -> None:
    for phase in timing.PHASES:
        values = times[name][phase]
        setattr(row, f"{phase}_min_ms", 1e3 * float(values.min()))
        setattr(row, f"{phase}_median_ms", 1e3 * float(np.median(values)))
        if name != FLOOR:
            found = timing.tax(values, times[FLOOR][phase])
            for key, value in (
                ("min", found.minimum),
                ("median", found.median),
                ("low", found.low),
                ("high", found.high),
            ):
                setattr(row, f"{phase}_tax_{key}", value)
    if timing.HOST in times[name]:
        row.host_ms = 1e3 * float(np.median(times[name][timing.HOST]))
    for other, key in ((PLAIN, "step_over_plain"), (PEER, "step_over_peft")):
        if other in times and name not in (other, FLOOR, FLOOR_AGAIN):
            setattr(row, key, float(np.median(times[name]["step"] / times[other]["step"])))


def _put_memory(row: Row, kept: memory.Memory, floor: memory.Memory, contender: Contender) -> None:
    row.saved_bytes, row.saved_input_bytes, row.saved_allocator_bytes = kept.saved, kept.of_input, kept.allocator
    row.saved_added_bytes = kept.saved - kept.of_input - (floor.saved - floor.of_input)
    row.saved_agree, row.peak_bytes, row.trainable = kept.agree, kept.peak, contender.trainable


def _bounds(
    case: Case, ground: Field, constants: Constants | None, settings: Settings
) -> tuple[float | None, float | None]:
    """(seconds the floor needs, seconds the method must add) by the cost model; of a model only the latter is known."""
    if constants is None or case.dtype not in constants.gemm:
        return None, None
    e = dtype_of(case.dtype).itemsize
    tokens = case.tokens or math.prod(models.size(case, settings.quick))
    total = roofline.Work()
    for one in ground.layers:
        (adapter,) = one.adapters.values()
        d_in, d_out = (one.size, one.size) if one.wiring != "linear" else base.sizes(one.base_layer)
        plan = json.loads(getattr(adapter.method, "plan", "{}"))
        work = roofline.added(adapter.method.name, plan.get("options", {}), roofline.Site(tokens, d_in, d_out, e))
        if work is None:
            return None, None
        total += work
    own = None
    if not case.model:
        own = roofline.floor(roofline.Site(tokens, case.d_in, case.d_out, e), case.variant.kind == "linear").seconds(
            constants, case.dtype
        )
    return own, total.seconds(constants, case.dtype)


def _put_roofline(row: Row, bounds: tuple[float | None, float | None], times: timing.Times, name: str) -> None:
    floor, added = bounds
    median = {key: float(np.median(times[key]["step"])) for key in (FLOOR, name)}
    if name == FLOOR and floor is not None:
        row.bound_ms, row.added_ms, row.roofline = 1e3 * floor, 1e3 * median[FLOOR], floor / median[FLOOR]
    elif name not in (FLOOR, FLOOR_AGAIN) and added is not None:
        extra = median[name] - median[FLOOR]
        row.bound_ms, row.added_ms = 1e3 * added, 1e3 * extra
        row.roofline = added / extra if extra > 0 else None
