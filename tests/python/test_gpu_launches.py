# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: which kernels a step launches. Runs on the emulated device too."""

import re

import pytest
import torch
from conftest import emulator
from gpu_layers import (
    DEVICE,
    check_bottleneck,
    check_layer,
    kernels_of,
    layer_options,
    leaf,
    on_hopper,
)

from core import Bound

pytestmark = pytest.mark.gpu

# What launches nothing.
QUIET = r"aten::(empty|as_strided|view|flatten|t|to|transpose|detach|unsqueeze|slice|select|narrow|resolve_\w+)(_\w+)?"


def count(launched, pattern):
    return sum(n for name, n in launched.items() if re.search(pattern, name))


@pytest.mark.skipif(emulator is None, reason="a GPU is what it is")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["lora", "dora", "bottleneck"])
def test_layers_are_as_precise_on_an_older_gpu(kind, p, dtype):
    emulator.veneer_emulated_device(8, 1)
    found = []

    def check():
        if kind == "bottleneck":
            found.extend(check_bottleneck("gelu", p, dtype, 512, 32, 600, "plain"))
        else:
            found.extend(check_layer(kind, (512, 264), 300, 16, p, True, "plain", dtype))

    launched = kernels_of(check)
    assert not found
    assert count(launched, "Thin(Reduction|Expansion)<") >= 3, launched
    assert not count(launched, r"\bMaps\b"), launched  # the tensor engine is sm_90a's


@on_hopper
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("rank", [16, 3])
def test_gradients_of_many_rows_come_from_the_layers_product(kind, p, rank):
    d, rows = 512, 4096
    bound = Bound.make("additive", layer_options(kind, rank, p, (d, d)), d, d).to(torch.bfloat16, DEVICE)
    x, weight, upstream = (torch.randn(n, d, device=DEVICE, dtype=torch.bfloat16) for n in (rows, d, rows))
    y = bound(leaf(x), weight=weight, seed=torch.tensor([3], device=DEVICE) if p else None)
    launched = kernels_of(lambda: y.backward(upstream))
    assert count(launched, r"\bMore<") == 1, launched
    assert count(launched, "Thin(Reduction|Expansion)<|Column(Sums|Scaling)<") == 1, launched  # over dy, for the rest
    assert count(launched, "Fitting<") == (rank % 8 != 0), launched


def launched_by_a_step(bound, drops):
    """The kernels of a layer with many rows, and that there were no operators of torch that launch others."""
    x, weight, upstream = (torch.randn(n, 512, dtype=torch.bfloat16) for n in (4096, 512, 4096))
    x, seed = leaf(x), torch.tensor([3]) if drops else None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profiler:
        launched = kernels_of(lambda: bound(x, weight=weight, seed=seed).backward(upstream))
    others = {e.key for e in profiler.key_averages() if e.key.startswith("aten::") and not re.fullmatch(QUIET, e.key)}
    assert not others
    return launched


@on_hopper
@pytest.mark.skipif(emulator is None, reason="counts torch's operators, which on a GPU are among the kernels")
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("trained", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("rank", [16, 12])
def test_a_layers_step_is_our_kernels_and_nothing_else(kind, p, trained, rank):
    launched = launched_by_a_step(
        Bound.make("additive", layer_options(kind, rank, p, (512, 512)), 512, 512).to(trained, DEVICE), bool(p)
    )
    forward = {"lora": 2, "dora": 3}[kind] + bool(p or rank == 12)  # where parts of x A^T are added up
    fitted = count(launched, "Fitting<")
    # Of both factors, forward and backward; of one, and what it is multiplied with, likewise.
    assert fitted == 2 * (trained == torch.float32) + 2 * (rank == 12)
    assert sum(launched.values()) == forward + {"lora": 5, "dora": 8}[kind] + fitted, launched


@on_hopper
@pytest.mark.skipif(emulator is None, reason="counts torch's operators, which on a GPU are among the kernels")
def test_a_scaled_layers_step_is_two_products():
    launched = launched_by_a_step(Bound.make("ia3", {}, 512, 512).to(torch.float32, DEVICE), False)
    assert count(launched, r"\bMore<") == 2, launched
    assert sum(launched.values()) == 4, launched  # backward the weight's rows are scaled, and parts of sums added up


@on_hopper
@pytest.mark.parametrize("d", [1032] if emulator else [1032, 2048, 4096])
def test_wide_bottlenecks_read_their_rows_once(d):
    bound = Bound.make("bottleneck", {"size": 64}, d, d, kind="hidden", dtype=torch.float32).to(torch.bfloat16, DEVICE)
    x = leaf(torch.randn(1000, d), dtype=torch.bfloat16)
    found = []

    def step():
        found.append(bound(x, y=x))
        found[0].backward(torch.randn_like(found[0]))

    launched = kernels_of(step)
    assert count(launched, "shared_rows::Maps") == 2, launched
    assert count(launched, "shared_rows::Total<") == 1, launched  # of all sums; no product by a library
