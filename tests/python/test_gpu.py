# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What only a GPU has: streams, graphs, its allocator. `make gpu-test` runs these and test_gpu_*.py."""

import math

import pytest
import torch
from conftest import emulator
from gpu_layers import (
    CONFIGS,
    DEVICE,
    D,
    batch,
    close,
    each_config,
    layer,
    layer_options,
    leaf,
    norm,
    step,
)

from core import Bound

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(emulator is not None, reason="of a real GPU")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in CONFIGS if "dropout" not in name])
def test_a_captured_step_replays_on_other_inputs(name, dtype):
    model, trained = layer(name, dtype)
    x, upstream = batch(dtype)
    graph, captured = capture(lambda: step(model, trained, x, upstream))
    for _ in range(2):
        with torch.no_grad():
            for tensor in (x, upstream, *trained):
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        close(captured, step(model, trained, x, upstream), dtype)


def capture(run):
    """A graph of `run` and what it returned; libraries make their plans before, on a stream of their own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    return graph, captured


@pytest.mark.parametrize("kind", ["lora", "circulant"])
def test_a_captured_dropout_reads_its_seed_at_replay(kind):
    bound = Bound.make("additive", layer_options(kind, 16, 0.1), D, D, dtype=torch.float32, device=DEVICE)
    weight, seed = torch.randn(D, D, device=DEVICE), torch.tensor([1], device=DEVICE)
    x, upstream = batch(torch.float32)

    def run():
        y = bound(x, weight=weight, seed=seed)
        return [y, *torch.autograd.grad(y, [x, *bound.own], upstream)]

    graph, captured = capture(run)
    seen = []
    for number in (5, 6):
        seed.fill_(number)
        graph.replay()
        close(captured, run(), torch.float32)
        seen.append(captured[0].clone())
    assert not torch.equal(*seen)


def test_a_captured_layer_draws_a_new_mask_at_each_replay():
    model, trained = layer("lora dropout")
    x, upstream = batch(torch.float32)
    graph, (y, *_) = capture(lambda: step(model, trained, x, upstream))
    seen = []
    for _ in range(3):
        graph.replay()
        seen.append(y.clone())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@each_config
def test_kernels_run_on_the_current_stream(name):
    """The inputs arrive late on that stream: what ran on another one would read the old ones."""
    model, trained = layer(name)
    source, upstream = batch(torch.float32)
    torch.manual_seed(3)
    expected = [t.clone() for t in step(model, trained, source, upstream)]
    x = leaf(torch.full_like(source, math.nan))
    dy = torch.full_like(upstream, math.nan)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    torch.manual_seed(3)
    with torch.cuda.stream(side):
        torch.cuda._sleep(40_000_000)  # some 20 ms
        with torch.no_grad():
            x.copy_(source)
            dy.copy_(upstream)
        got = step(model, trained, x, dy)
    side.synchronize()
    close(got, expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["lora", "lora dropout"])
def test_kept_for_backward_are_x_the_rank_wide_product_and_a_seed(name, dtype):
    model, _ = layer(name, dtype)
    rows = 1024
    x, _ = batch(dtype, rows)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    model(x)  # plans and workspaces
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        held = model(x)
    own = {pointer: size for pointer, size in storages.items() if pointer not in parameters}
    assert own.pop(x.untyped_storage().data_ptr()) == x.nbytes
    h, seed = rows * 16 * x.element_size(), 8 if "dropout" in name else 0
    assert sorted(own.values()) == sorted([h, seed] if seed else [h])
    del held
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    held = model(x)
    block = 512  # bytes, of which the allocator gives out multiples
    assert torch.cuda.memory_allocated() - before == held.nbytes + h + (block if seed else 0)


@pytest.mark.parametrize("name", ["lora", "lora dropout"])
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_layer_gives_the_same(name):
    model, trained = layer(name, torch.bfloat16)
    compiled = torch.compile(model, fullgraph=True)
    for rows in (64, 96):
        x, upstream = batch(torch.bfloat16, rows)
        if "dropout" in name:
            # Inductor draws its own seed, so only that the mask is one: <dx, x> = <dy, y - b>.
            got = step(compiled, trained, x, upstream)
            bias = model.get_base_model()[0].base_layer.bias
            forward = (upstream.double() * (got[0].double() - bias.double())).sum().item()
            scale = norm(upstream) * norm(got[0])
            assert abs((got[1].double() * x.double()).sum().item() - forward) <= 1e-3 * scale
        else:
            close(step(compiled, trained, x, upstream), step(model, trained, x, upstream), torch.bfloat16)
