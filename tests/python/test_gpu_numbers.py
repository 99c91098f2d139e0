# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""On a GPU: the numbers of the CPU, and the precision of the composed path. Runs on the emulated device too."""

import copy
import itertools
import json

import pytest
import test_fused
import test_matrices
import test_methods
import test_narrow_layer
import torch
from conftest import emulator
from gpu_layers import (
    CONFIGS,
    DEVICE,
    DTYPES,
    LAYOUTS,
    MAJOR,
    D,
    batch,
    check_bottleneck,
    check_layer,
    complaints,
    each_config,
    each_dtype,
    error,
    laid_out,
    layer,
    layer_options,
    leaf,
    norm,
    on_the_cpu,
    step,
    without_kernels,
)
from torch import nn
from torch.nn import functional as F

import veneer
from core import Bound, ops
from veneer import BottleneckConfig, _core

pytestmark = pytest.mark.gpu

# The numbers of the CPU ---------------------------------------------------------------------------------------------


def results(call, bound, x, weight, bias, upstream):
    """Output, and gradients of x and the trained parameters."""
    y = call(bound, x, weight, bias)
    found = torch.autograd.grad(y, [x, *bound.own], upstream, allow_unused=True)
    return [y, *found]


def check_against_the_cpu(call, bound, d_in, d_out, rows):
    tensors = [
        torch.randn(*size, dtype=torch.float64) for size in ((rows, d_in), (d_out, d_in), (d_out,), (rows, d_out))
    ]
    x, weight, bias, upstream = tensors
    with on_the_cpu():
        truth = results(call, bound, leaf(x, "cpu"), weight, bias, upstream)
    largest = max(norm(t) for t in truth if t is not None)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        weight, bias, upstream = (t.to(DEVICE, dtype) for t in tensors[1:])
        got = results(call, bound.to(dtype, DEVICE), leaf(x, dtype=dtype), weight, bias, upstream)
        for one, other in zip(got, truth, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert one.dtype == dtype
                assert one.device.type == DEVICE.type
                assert error(one, other) <= tolerance * max(norm(other), 1e-3 * largest)


@pytest.mark.parametrize("rows", [5, 64])  # where a matrix is cheaper added to the weight, that path too
@pytest.mark.parametrize(("name", "options"), test_methods.ALL)
def test_every_method_gives_the_numbers_of_the_cpu(name, options, rows):
    bound = test_methods.make(name, options)
    d_out = 12 if test_methods.METHODS[name]["site"] == "hidden" else 8
    check_against_the_cpu(lambda *args: test_methods.call(name, *args), bound, 12, d_out, rows)


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), test_matrices.EACH)
def test_every_matrix_gives_the_numbers_of_the_cpu(name, options, d_in, d_out):
    bound = test_matrices.make(name, options, d_in, d_out)
    for rows in (3, 2 * min(d_in, d_out) + 1):
        check_against_the_cpu(lambda b, x, w, c: b(x, weight=w, bias=c), bound, d_in, d_out, rows)


@pytest.mark.skipif(not emulator, reason="a real GPU has kernels")
@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), test_matrices.EACH)
def test_a_gpu_without_kernels_is_served_by_libraries(name, options, d_in, d_out):
    bound = test_matrices.make(name, options, d_in, d_out)
    for rows in (3, 2 * min(d_in, d_out) + 1):
        with without_kernels():
            check_against_the_cpu(lambda b, x, w, c: b(x, weight=w, bias=c), bound, d_in, d_out, rows)
    assert not emulator.veneer_emulated_launches()


# The precision of the composed path ----------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("case", test_fused.CASES)
def test_fused_paths_are_as_precise_as_the_composed_one(case, dtype):
    model, x = test_fused.make(case, dtype)
    upstream = torch.randn(len(x), test_fused.CASES[case][2], dtype=dtype)

    def run(precision, composed):
        twin, _ = test_fused.make(case, precision)
        twin.load_state_dict(model.state_dict())
        twin.to(DEVICE).get_base_model()[0].base_layer.weight.requires_grad_(composed)  # which takes the composed path
        given = leaf(x, dtype=precision)
        torch.manual_seed(5)
        y = twin(given)
        assert test_fused.fused(y) != composed
        trained = [p for name, p in twin.named_parameters() if p.requires_grad and "base_layer" not in name]
        return [y, *torch.autograd.grad(y, [given, *trained], upstream.to(y))]

    assert not complaints(run(dtype, False), run(dtype, True), run(torch.float64, True), dtype, roundings=4)


# An emulated GPU is slow, and has few multiprocessors: what is small elsewhere goes all ways there.
if emulator:
    SIZES = [(64, 64), (512, 264), (264, 512), (1024, 136), (36, 44), (7, 13)]
    ROWS = [0, 1, 33, 257]
else:
    SIZES = [(64, 64), (512, 512), (768, 768), (1024, 520), (520, 1024), (36, 44), (7, 13)]
    ROWS = [0, 1, 31, 33, 257, 1000]
LARGE = (4096, 4096)
RANKS = [1, 3, 8, 16, 17, 32, 64, 100]


@each_dtype
@pytest.mark.parametrize("size", SIZES if emulator else [*SIZES, LARGE], ids=str)
@pytest.mark.parametrize(("kind", "p"), [*itertools.product(["lora", "dora", "circulant"], [0.0, 0.1]), ("ia3", 0.0)])
def test_layers_are_as_precise_as_the_composed_path(kind, p, size, dtype):
    start = [*SIZES, LARGE].index(size)
    ranks = {"lora": 3, "dora": 2}.get(kind, 1)
    found = {}
    for i, rows in enumerate([300] if size == LARGE else ROWS):
        for j in range(ranks):
            # Over all sizes, every number of rows meets every rank, with and without bias, in each layout.
            rank, layout = RANKS[(start + i + 3 * j) % len(RANKS)], LAYOUTS[(start + i + j) % len(LAYOUTS)]
            case = (rows, rank, p, (start + j) % 2 == 0, layout)
            if complaint := check_layer(kind, size, *case, dtype):
                found[case] = complaint
    assert not found


# Enough rows for blocks with whole rows of a product (8200: most multiprocessors have one), and, up to rank 16, for the
# gradient of A beside the layer's own product; with a mask where d_in is made of its blocks.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(
    ("size", "rows", "rank"),
    [((1024, 136), 2080, 16), ((1032, 512), 2080, 12), ((264, 72), 1100, 24)]
    if emulator
    else [
        ((512, 264), 8001, 16),
        ((1032, 512), 8200, 24),
        ((1032, 512), 8200, 16),
        ((1032, 512), 8200, 3),
        ((776, 136), 8200, 8),
        ((2560, 520), 1100, 8),
        ((1024, 2048), 2081, 32),
    ],
    ids=str,
)
def test_layers_of_many_rows_are_as_precise_as_the_composed_path(kind, size, rows, rank, p, dtype):
    assert not check_layer(kind, size, rows, rank, p, rank % 16 == 0, "plain", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "rows"), [((1024, 136), 2080), ((264, 72), 8200)], ids=str)
def test_scaled_layers_of_many_rows_are_as_precise_as_the_composed_path(size, rows, bias, dtype):
    assert not check_layer("ia3", size, rows, 0, 0.0, bias, "plain", dtype)


@each_dtype
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("activation", ["gelu", "silu"])  # relu's slope jumps where an inner state is rounded over zero
def test_bottlenecks_are_as_precise_as_plain_torch(activation, p, dtype):
    found = {}
    for (d, m), rows in itertools.product([(64, 16), (768, 48), (1032 if emulator else 4096, 64), (36, 3)], ROWS):
        layout = LAYOUTS[(rows + m) % len(LAYOUTS)]
        if complaint := check_bottleneck(activation, p, dtype, d, m, rows, layout):
            found[d, m, rows, layout] = complaint
    assert not found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wiring", ["output", "parallel:0"])
@pytest.mark.parametrize("activation", test_narrow_layer.ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [((512, 64), 8), ((3, 171, 1096), 64), ((577, 96), 16), ((700, 136), 40)]
    if emulator
    else [
        ((512, 64), 8),
        ((3, 333, 4096), 64),
        ((577, 96), 16),
        ((5000, 136), 40),
        ((700, 768), 48),
        ((1337, 2048), 64),
        ((7700, 1544), 24),  # these two: more tiles of rows than a cluster's ring holds
        ((4100, 2600), 56),
    ],
)
def test_narrow_layers_in_one_pass(shape, size, activation, wiring, dtype):
    x = torch.empty(shape, dtype=dtype, device=DEVICE)
    bias = size % 16 == 0
    scale = 1.0 if bias and wiring == "output" else 0.7
    own_dtype = torch.float32 if size == 56 and activation != "relu" else dtype  # rounded, it may cross relu's kink
    test_narrow_layer.compare(wiring, shape, size, dtype, activation, scale, bias, DEVICE, own_dtype)
    model = veneer.get_peft_model(
        nn.Sequential(nn.Identity()),
        BottleneckConfig(target_modules=["0"], bottleneck_size=size, hidden_size=shape[-1]),
    ).to(DEVICE, dtype)
    assert ("one pass" in model.explain(x)[0].kernels) == (MAJOR == 9)


# Dropout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
def test_the_mask_is_the_cpus_bit_for_bit(dtype):
    seed = torch.tensor([-123456789])
    # More blocks than the grid has, once.
    large = 65537 * 512 + 3 if dtype == torch.bfloat16 and not emulator else 70001
    for shape, p in (((0, 3), 0.5), ((1,), 0.9), ((37, 1001), 0.25), ((511,), 0.1), ((large,), 0.1)):
        x = torch.randn(shape).to(dtype)
        with on_the_cpu():
            expected = ops.seeded_dropout(x, seed, p)
        for given in (x, laid_out(x, "offset")) if x.dim() == 1 else (x, laid_out(x, "strided")):
            got = ops.seeded_dropout(laid_out(given.to(DEVICE), "offset"), seed.to(DEVICE), p)
            assert torch.equal(got.cpu(), expected)


@pytest.mark.parametrize("kind", ["lora", "dora", "circulant"])
def test_a_layer_drops_what_the_cpu_drops_forward_and_backward(kind):
    bound = Bound.make("additive", layer_options(kind, 5, 0.3), 48, 36)
    seed, n = torch.tensor([99]), 301

    def call(own, x, weight, bias):
        return own(x, weight=weight, bias=bias, seed=seed.to(x.device))

    check_against_the_cpu(call, bound, 48, 36, n)
    if kind == "dora":
        return  # not linear in x
    # Linear in x up to the bias: <dx, x> = <dy, y - b> holds only where backward drops what forward did.
    own, x, w, upstream = (
        bound.to(device=DEVICE),
        leaf(torch.randn(n, 48, dtype=torch.float64)),
        torch.randn(36, 48, dtype=torch.float64, device=DEVICE),
        torch.randn(n, 36, dtype=torch.float64, device=DEVICE),
    )
    y = own(x, weight=w, seed=seed.to(DEVICE))
    (dx,) = torch.autograd.grad(y, x, upstream)
    assert (dx * x).sum().item() == pytest.approx((upstream * y).sum().item(), rel=1e-9)


# Layers as users have them ------------------------------------------------------------------------------------------


@each_dtype
@each_config
def test_two_runs_give_the_same_bits(name, dtype):
    model, trained = layer(name, dtype)
    x, upstream = batch(dtype)
    runs = []
    for _ in range(3):
        torch.manual_seed(3)
        runs.append(step(model, trained, x, upstream))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_config
def test_under_autocast(name, dtype):
    model, _ = layer(name)
    x, upstream = batch(torch.float32)

    def run(enabled, precision=torch.float32):
        twin = copy.deepcopy(model).to(precision)
        own = [p for p in twin.parameters() if p.requires_grad]
        given = leaf(x, dtype=precision)
        torch.manual_seed(3)
        with torch.autocast(DEVICE.type, dtype, enabled=enabled):
            y = twin(given)
        return [y, *torch.autograd.grad(y, [given, *own], upstream.to(y))]

    got, exact = run(True), run(False, torch.float64)
    assert got[0].dtype == dtype
    for one, other in zip(got, exact, strict=True):
        assert error(one, other) <= 4 * torch.finfo(dtype).eps * norm(other)


@pytest.mark.parametrize(
    ("kind", "p", "dtype"),
    [
        ("lora", 0.0, torch.float32),
        ("lora", 0.25, torch.bfloat16),
        ("dora", 0.0, torch.bfloat16),
        ("circulant", 0.25, torch.float16),
    ],
)
def test_opcheck(kind, p, dtype):
    bound = Bound.make("additive", layer_options(kind, 3, p), 12, 8, dtype=dtype, device=DEVICE)
    x, weight, bias = (torch.randn(s, device=DEVICE, dtype=dtype) for s in ((5, 12), (8, 12), (8,)))
    seed = torch.tensor([1], device=DEVICE) if p else None
    arguments = ("additive", bound.plan, x.requires_grad_(), None, weight, bias, bound.params, seed, _core.build_id())
    torch.library.opcheck(ops.fused, arguments)
    torch.library.opcheck(ops.seeded_dropout, (x, torch.tensor([1], device=DEVICE), 0.25))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(0, 8), (5, 7), (300, 128), (2, 3, 1500)], ids=str)
def test_scaled_columns(shape, dtype):
    t = torch.randn(*shape, device=DEVICE, dtype=dtype, requires_grad=True)
    l, dy = torch.randn(shape[-1], device=DEVICE, requires_grad=True), torch.randn_like(t)
    y = ops.scaled_columns(t, l)
    exact = [v.detach().double().requires_grad_() for v in (t, l)]
    product = exact[0] * exact[1]
    found = (y, *torch.autograd.grad(y, (t, l), dy))
    for got, expected in zip(found, (product, *torch.autograd.grad(product, exact, dy.double())), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)
    if t.numel():
        torch.library.opcheck(ops.scaled_columns, (t, l))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_config
def test_training_lowers_the_loss(name, dtype):
    torch.manual_seed(0)
    hidden = nn.Linear(D, D, device=DEVICE, dtype=dtype)
    base = nn.Sequential(hidden, nn.Tanh(), nn.Linear(D, 3, device=DEVICE, dtype=dtype))
    model = veneer.get_peft_model(base, copy.deepcopy(CONFIGS[name])).train()
    x, labels = torch.randn(64, D).to(DEVICE, dtype), torch.randint(0, 3, (64,)).to(DEVICE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = F.cross_entropy(model(x).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], json.dumps(losses)
