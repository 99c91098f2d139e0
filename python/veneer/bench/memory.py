# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes kept for backward, counted twice: by the storages that autograd saves, and by what the allocator has handed
out and not got back when forward ends. What a kernel keeps without telling autograd shows in the second alone."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from veneer.bench.contender import Contender, Sample
from veneer.bench.timing import no_gc

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports a machine without a GPU as an error

# How far the two counts may differ: seeds and scalars, and the allocator's rounding on a GPU.
SLACK_BYTES = 4096
SLACK_SHARE = 0.002


@dataclass
class Memory:
    """Bytes. `saved`: unique storages kept for backward, parameters and buffers left out; `of_input`: the part of it
    that are the sample's own tensors, kept by whoever made them; `allocator`: the same as `saved` by the allocator's
    account; `agree`: whether the two fit; `peak`: most that was live at once in a step, beyond what was there before
    it."""

    saved: int
    of_input: int
    allocator: int
    agree: bool
    peak: int


class _Kept:
    """Holds a tensor for as long as autograd keeps it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _storage(tensor: Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _cpu_trace(run: Callable[[], object]) -> tuple[int, int]:
    """(bytes live at the end, most live at once) of what `run` allocates; its result is held until both are read."""
    # A collection in between would free what is not ours.
    with (
        no_gc(collect=False),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler,
    ):
        held = run()
    live = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del held
    return live, peak


def _cuda_trace(run: Callable[[], object]) -> tuple[int, int]:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    held = run()
    torch.cuda.synchronize()
    live, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    del held
    return live, peak


def measure(contender: Contender, sample: Sample, device: torch.device) -> Memory:
    """Measures one step; the contender should have made some before, so that lazily made state is there."""
    trace = _cuda_trace if device.type == "cuda" else _cpu_trace
    resident = contender.resident()
    inputs = {_storage(t)[0] for t in [*sample.args, *sample.kwargs.values(), sample.grad] if isinstance(t, Tensor)}
    packed: list[weakref.ref[_Kept]] = []

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor.detach())  # an output would hold its own node, and that this: never freed
        packed.append(weakref.ref(kept))
        return kept

    contender.clear(sample)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        out = contender.module(*sample.args, **sample.kwargs)
    # Parts of the graph that forward itself has dropped (a norm taken without gradient) keep nothing any more.
    storages = [_storage(kept.tensor) for ref in packed if (kept := ref()) is not None]
    saved = {pointer: size for pointer, size in storages if pointer not in resident}
    # The output, and leaves made within, live for their own sake unless they are saved as well.
    made = dict(map(_storage, _tensors(out)))
    outside = sum(size for pointer, size in {**made, **contender.alive}.items() if pointer not in saved)
    of_input = sum(size for pointer, size in saved.items() if pointer in inputs)
    del out
    live, _ = trace(lambda: contender.module(*sample.args, **sample.kwargs))
    total = sum(saved.values())
    allocator = live - outside + of_input
    agree = abs(allocator - total) <= SLACK_BYTES + SLACK_SHARE * total
    contender.clear(sample)
    _, peak = trace(lambda: contender.step(sample))
    contender.clear(sample)
    return Memory(total, of_input, allocator, agree, peak)


def _tensors(out: object) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    values = out.values() if hasattr(out, "values") else out if isinstance(out, (tuple, list)) else []
    return [t for value in values for t in _tensors(value)]
