# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the studies (images.py, glue.py, approximation.py) share: results on disk, runs in several processes that go on
where they were stopped, and the rule by which learning rates are tuned."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from datetime import date
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from filelock import FileLock, Timeout
from rich.console import Console
from tqdm import tqdm

import veneer

ROOT = Path(__file__).resolve().parents[2]
console = Console()


class StudyError(ValueError):
    """The command cannot go on; the message says why."""


class Run(Protocol):
    """One training: a frozen dataclass."""

    stage: str  # "tune": scored on validation examples, "test": on the test's
    key: str


# Results on disk ------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


def write(path: Path, results: dict) -> None:
    """One line a run; the old file stays until the new one is complete."""
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in results.items() if key != "runs"]
    runs = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in results["runs"].items())
    text = "{\n" + ",\n".join([*parts, f' "runs": {{\n{runs}\n }}']) + "\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keeps the results to one command at a time: two would overwrite each other's runs.

    Raises:
        StudyError: another one has them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise StudyError(f"[--out] another command is writing {path}; stop it, or choose another --out") from None


def processor() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]  # fmt: skip
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def where(**more: Any) -> dict:
    """What the results say of the machine and the versions."""
    return {
        "date": date.today().isoformat(),
        "cpu": processor(),
        **more,
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (veneer, torch, transformers)},
    }


# Learning rates -------------------------------------------------------------------------------------------------------


def tuned(
    runs: dict[str, dict],
    grid: Sequence[float],
    first: int,
    last: int,
    more: bool,
    tries: Callable[[float], list[Any]],
    score: str,
) -> tuple[list[Any], float]:
    """Tries the rates grid[first : last + 1], and with `more` the next of the grid as long as the best is at the edge of
    those tried. Best is the mean score of a rate's runs; of equals the smallest rate.

    Returns:
        the runs that are missing, which can be started now; when there are none, the best rate.
    """

    def mean(rate: float) -> float:
        return statistics.mean(runs[run.key][score] for run in tries(rate))

    while True:
        rates = grid[first : last + 1]
        if missing := [run for rate in rates for run in tries(rate) if run.key not in runs]:
            return missing, rates[0]
        best = max(rates, key=lambda rate: (mean(rate), -rate))
        if more and best == rates[0] and first > 0:
            first -= 1
        elif more and best == rates[-1] and last < len(grid) - 1:
            last += 1
        else:
            return [], best


# The study ------------------------------------------------------------------------------------------------------------


def _worker() -> None:
    """Makes a process of the pool: one thread, gone when the main process is, which alone decides about Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class _Here:
    """Stands in for a pool of processes: one run at a time, in this one."""

    def submit(self, function, *arguments) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_options) -> None:
        pass


def at_least(wanted: Callable[..., Iterator[Run]], seeds: int, chosen: list[tuple]) -> int:
    """How many runs are missing, if no entry needs more learning rates than it has asked for."""
    count = 0
    for entry in chosen:
        missing = list(wanted(*entry))
        count += len(missing) + (seeds if missing and missing[0].stage == "tune" else 0)
    return count


def study(
    path: Path,
    results: dict,
    chosen: list[tuple],
    wanted: Callable[..., Iterator[Run]],
    perform: Callable[[Any], dict],
    *,
    seeds: int,
    score: str,
    workers: int,
    hours: float,
) -> dict:
    """Does the runs that are missing: those that `wanted(*entry)` says can be started now, for each entry of `chosen`.
    `perform(run)` may be called in another process.

    Returns:
        the results, with all runs, or as many as there was time for.
    """
    runs = results["runs"]
    end = time.monotonic() + 3600 * hours
    if not at_least(wanted, seeds, chosen):
        console.print(f"nothing is missing in {path}")
        return results
    pool = _Here() if workers == 1 else ProcessPoolExecutor(workers, get_context("spawn"), _worker)
    busy: dict[Future, Run] = {}
    bar = tqdm(desc="runs", unit="run", smoothing=0.02, disable=None)
    try:
        while True:
            started = {run.key for run in busy.values()}
            missing = [r for entry in chosen for r in wanted(*entry) if r.key not in started]
            for run in missing[: workers - len(busy)] if time.monotonic() < end else []:
                busy[pool.submit(perform, run)] = run
            if not busy:
                if missing:
                    console.print("time is up; the same command goes on")
                return results
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                run = busy.pop(future)
                runs[run.key] = future.result()
                write(path, results)
                bar.total = len(runs) + at_least(wanted, seeds, chosen)
                bar.n = len(runs) - 1
                bar.update()
                bar.set_postfix_str(f"{run.key}: {100 * runs[run.key][score]:.1f}")
    finally:
        bar.close()
        pool.shutdown(wait=True, cancel_futures=True)
        if late := {run.key: f.result() for f, run in busy.items() if not (f.cancelled() or f.exception())}:
            runs |= late  # finished while the study was being stopped
            write(path, results)


def finish(
    out: Path, render_only: bool, done: Callable[[Path], dict], render: Callable[[dict, Path], None], errors: tuple
) -> int:
    """The rest of a command: `done(path)` opens the results at `path` and completes them, as far as time allows, unless
    they are only to be rendered.

    Returns:
        the exit status.
    """
    path = out.with_suffix(".json")
    try:
        with nullcontext() if render_only else only_writer(path):
            results = read(path) if render_only else done(path)
        if not results:
            raise StudyError(f"[--render] {path} does not exist")
        render(results, out)
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on with what is in {path}", file=sys.stderr)
        return 130
    console.print(f"written: {path}, {out.with_suffix('.md')}, {out.with_suffix('.png')}")
    return 0
