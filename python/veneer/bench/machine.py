# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Where a run was made (provenance), and what that machine can do at best (the constants of the cost model)."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import veneer
from veneer import _core


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the repository the package lies in, with a plus sign where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 tiles."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def gpu_state(device: torch.device) -> dict[str, str] | None:
    """Driver, clocks, power and temperature as the driver tells them now; None on a CPU, or where it does not."""
    if device.type != "cuda":
        return None
    fields = [
        "driver_version",
        "clocks.sm",
        "clocks.max.sm",
        "clocks.mem",
        "power.draw",
        "power.limit",
        "temperature.gpu",
    ]
    # By its own number: the index is another one where CUDA_VISIBLE_DEVICES hides some.
    own = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", own, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    (values,) = csv.reader(text.splitlines(), skipinitialspace=True)
    return dict(zip(fields, values, strict=True))


def results_name(provenance: dict[str, Any]) -> str:
    """The name of a run's file in a folder of results: the device and the day."""
    device = re.sub(r"[^a-z0-9]+", "-", (provenance["gpu"] or provenance["cpu"]).lower()).strip("-")
    return f"{device}-{provenance['date'][:10]}.json"


def provenance(device: torch.device) -> dict[str, Any]:
    """Everything one needs to know to judge or repeat a run."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": "veneer " + " ".join(sys.argv[1:]),
        "device": device.type,
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": has_amx(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "gpu": gpu and gpu.name,
        "gpu_sms": gpu and gpu.multi_processor_count,
        "gpu_bytes": gpu and gpu.total_memory,
        "cuda": torch.version.cuda if gpu else None,
        "float32_products": torch.get_float32_matmul_precision(),
        "veneer": veneer.__version__,
        "build": _core.build_id(),
        "commit": _commit(),
        "torch": torch.__version__,
        "peft": _version("peft"),
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "composed": os.environ.get("VENEER_COMPOSED", "0") != "0",
    }


@dataclass
class Constants:
    """Measured once in a run. `gemm`: dtype -> FLOP/s, best of a few shapes; `fft`: FLOP/s of a batched real transform,
    counted as 2.5 n log2 n; `copy`: bytes read and written in a second, of what no cache holds; `dispatch`: seconds of
    the smallest operator, `node`: the same with autograd, forward and backward."""

    gemm: dict[str, float] = field(default_factory=dict)
    fft: float = 0.0
    copy: float = 0.0
    dispatch: float = 0.0
    node: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _best(run: Callable[[], Any], device: torch.device, budget: float, inner: int = 1) -> float:
    """The shortest time of `run` within a budget, better of five tries at least unless they take eight budgets; over
    `inner` calls in a row."""
    best, began, tries = float("inf"), time.perf_counter(), 0
    run()
    while (spent := time.perf_counter() - began) < budget or (tries < 5 and spent < 8 * budget) or tries == 0:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(inner):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best, tries = min(best, (time.perf_counter() - start) / inner), tries + 1
    return best


def measure_constants(device: torch.device, dtypes: set[str], quick: bool) -> Constants:
    """Measures GEMM peak in some precisions, FFT rate, copy bandwidth and dispatch cost."""
    cuda = device.type == "cuda"
    budget, inner = 0.05 if quick else 0.4, 20 if cuda else 1
    found = Constants()
    shapes = [(256, 768)] if quick else [(2048, 768), (2048, 1024), (1024, 4096)] + [(8192, 4096)] * cuda
    for name in sorted(dtypes):
        dtype = getattr(torch, name)
        rates = []
        for n, d in shapes:
            a, b = torch.randn(n, d, device=device).to(dtype), torch.randn(d, d, device=device).to(dtype)
            out = torch.empty(n, d, device=device, dtype=dtype)
            rates.append(
                2.0 * n * d * d / _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, budget, inner)
            )
        found.gemm[name] = max(rates)
    n, d = (256, 768) if quick else (16384, 4096) if cuda else (2048, 1024)  # beyond the cache of a GPU
    x = torch.randn(n, d, device=device)
    spectrum = torch.fft.rfft(x)
    found.fft = (
        2.5
        * n
        * d
        * torch.tensor(float(d)).log2().item()
        / _best(lambda: torch.fft.rfft(x, out=spectrum), device, budget, inner)
    )
    size = (1 << 23) if quick else (1 << 25) * (8 if cuda else 1)  # floats: 128 MiB or 1 GiB, beyond every cache
    source, target = torch.randn(size, device=device), torch.empty(size, device=device)
    found.copy = 8.0 * size / _best(lambda: target.copy_(source), device, budget, inner)
    one, sink = torch.zeros(1, device=device), torch.zeros(1, device=device)
    found.dispatch = _best(lambda: torch.add(one, one, out=sink), device, budget / 4, 100)
    leaf = torch.zeros(1, device=device, requires_grad=True)

    def node() -> None:
        (leaf * 2.0).backward()

    found.node = _best(node, device, budget / 4, 50)
    return found
