# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What tests on a GPU share. With VENEER_EMULATED, a path of tests/cuda's library, they run on its emulated device instead:
its tensors are the CPU's."""

import copy
import math
from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest
import test_fused
import torch
from conftest import emulator
from torch import nn
from torch.nn import functional as F

import veneer
from core import Bound, ops
from veneer import BottleneckConfig, IA3Config, LoraConfig, SurmConfig

DEVICE = torch.device("cpu" if emulator else "cuda")
MAJOR = 9 if emulator else torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0

if not emulator and not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
if not torch._C._dispatch_has_kernel_for_dispatch_key("veneer::seeded_dropout", "CUDA"):
    pytest.skip("veneer was built without CUDA kernels", allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
D, N = 256, 200 if emulator else 1000  # of a layer, where no others are said
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@contextmanager
def emulating(where):
    before = emulator.veneer_emulate(where)
    try:
        yield
    finally:
        emulator.veneer_emulate(before)


def on_the_cpu():
    """Here the kernels are the CPU's."""
    return emulating(0) if emulator else nullcontext()


def without_kernels():
    """Here the emulated GPU is one that the library is not built for."""
    return emulating(2)


def leaf(t, device=DEVICE, dtype=None):
    return t.detach().to(device=device, dtype=dtype).requires_grad_()


def norm(t):
    return t.detach().double().norm().item()


def error(got, truth):
    """||got - truth||."""
    return norm(got.detach().double() - truth.detach().to(got.device).double())


def complaints(got, composed, truth, dtype, roundings=2):
    """Where `got` is further from the truth than twice what `composed` is, and some roundings of the whole tensor."""
    found = []
    for i, (one, other, exact) in enumerate(zip(got, composed, truth, strict=True)):
        assert one.dtype == dtype
        assert one.shape == exact.shape
        wrong, allowed = error(one, exact), 2 * error(other, exact) + roundings * torch.finfo(dtype).eps * norm(exact)
        if not wrong <= allowed:  # NaN too
            what = "output" if i == 0 else "gradient of x" if i == 1 else f"gradient of parameter {i - 2}"
            found.append(f"{what}: {wrong:.3g} off, {allowed:.3g} allowed, of {norm(exact):.3g}")
    return found


LAYOUTS = ["plain", "strided", "transposed", "offset"]


def laid_out(t, layout):
    """The same numbers: every second column of a wider tensor, a transpose, or one element off any alignment."""
    if layout == "strided":
        return torch.stack([t, t], dim=-1)[..., 0]
    if layout == "transposed":
        return t.t().contiguous().t()
    if layout == "offset":
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
    return t


def layer_options(kind, rank, p, size=(D, D)):
    if kind == "circulant":
        blocks = {"block_size": 4, "padding": True} if math.gcd(*size) == 1 else {}
        return {"matrix": {"name": "circulant", "form": "single", **blocks}, "dropout": p}
    return {
        "matrix": {"name": "low_rank", "rank": rank, "alpha": 2 * rank},
        "dropout": p,
        "decompose": kind == "dora",
        "dora_dropout": "shared",  # HF PEFT's has no fused path
    }


def check_layer(kind, size, rows, rank, p, bias, layout, dtype):
    """Complaints about one layer: fused and composed in a precision, against composed in float64, with one seed."""
    d_in, d_out = size
    method, options = ("ia3", {}) if kind == "ia3" else ("additive", layer_options(kind, rank, p, size))
    bound = Bound.make(method, options, d_in, d_out, bias=bias, dtype=torch.float32)
    tensors = [torch.randn(rows, d_in), torch.randn(d_out, d_in) / math.sqrt(d_in), torch.randn(d_out)]
    rounded = [t.to(DEVICE, dtype) for t in (*tensors, torch.randn(rows, d_out))]
    if kind == "dora":  # magnitudes of the size of the norms, as training has them
        with torch.no_grad():
            bound.params[-1].copy_(tensors[1].norm(dim=1) * (1 + 0.1 * torch.randn(d_out)))
    bound = bound.to(dtype, DEVICE)
    seed = torch.tensor([rows + 1], device=DEVICE) if p else None

    def run(precision, composed):
        x, weight, b, upstream = (
            laid_out(t.to(precision), layout) if t.dim() == 2 else t.to(precision) for t in rounded
        )
        own = bound.to(precision)
        if layout == "offset":
            own = own.with_params([leaf(laid_out(t, layout)) for t in own.own])
        x, weight = leaf(x), weight.detach().requires_grad_(composed)
        y = own(x, weight=weight, bias=b if bias else None, seed=seed)
        assert test_fused.fused(y) != composed
        return [y, *torch.autograd.grad(y, [x, *own.own], upstream)]

    # A circulant's gradient is a sum over rows and columns, in another order in either path.
    roundings = 8 if kind == "circulant" else 2
    return complaints(run(dtype, False), run(dtype, True), run(torch.float64, True), dtype, roundings)


def check_bottleneck(activation, p, dtype, d, m, rows, layout):
    """Complaints about one adapter layer: ours and plain PyTorch's in a precision, against the latter in float64."""
    options = {"size": m, "activation": activation, "scale": 0.5, "dropout": p}
    bound = Bound.make("bottleneck", options, d, d, kind="hidden", dtype=torch.float32).to(dtype, DEVICE)
    assert bound.names == ["down_weight", "down_bias", "up_weight", "up_bias"]
    x, upstream = (torch.randn(rows, d, device=DEVICE, dtype=dtype) for _ in range(2))
    seed = torch.tensor([7], device=DEVICE) if p else None

    def plain(z, down, down_bias, up, up_bias):
        dropped = ops.seeded_dropout(z, seed, p) if p else z
        return z + 0.5 * F.linear(getattr(F, activation)(F.linear(dropped, down, down_bias)), up, up_bias)

    def run(precision, ours):
        own, z = bound.to(precision), leaf(laid_out(x.to(precision), layout))
        y = own(z, y=z, seed=seed) if ours else plain(z, *own.own)
        return [y, *torch.autograd.grad(y, [z, *own.own], laid_out(upstream.to(precision), layout))]

    return complaints(run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, roundings=4)


# Layers as users have them ------------------------------------------------------------------------------------------

CONFIGS = {
    "lora": LoraConfig(target_modules=["0"], r=16),
    "lora dropout": LoraConfig(target_modules=["0"], r=16, lora_dropout=0.1),
    "dora": LoraConfig(target_modules=["0"], r=16, use_dora=True),
    "dora dropout": LoraConfig(target_modules=["0"], r=16, use_dora=True, lora_dropout=0.1),
    "circulant": SurmConfig(target_modules=["0"]),
    "circulant dropout": SurmConfig(target_modules=["0"], dropout=0.1),
    "bottleneck": BottleneckConfig(target_modules={"output": ["0"]}, bottleneck_size=16),
    "bottleneck dropout": BottleneckConfig(target_modules={"output": ["0"]}, bottleneck_size=16, dropout=0.1),
    "ia3": IA3Config(target_modules=["0"], feedforward_modules=[]),
}
each_config = pytest.mark.parametrize("name", CONFIGS)


def layer(name, dtype=torch.float32, adapter=None):
    """One adapted layer with random parameters, and its trained ones."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(D, D, device=DEVICE, dtype=dtype))
    model = veneer.get_peft_model(base, copy.deepcopy(CONFIGS[name]), autocast_adapter_dtype=adapter is not None)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        nn.init.normal_(p, 0, 0.1)
    return model.train(), trained


def step(model, trained, x, upstream):
    y = model(x)
    return [y, *torch.autograd.grad(y, [x, *trained], upstream)]


def batch(dtype, rows=N):
    return leaf(torch.randn(rows, D), dtype=dtype), torch.randn(rows, D).to(DEVICE, dtype)


def close(got, expected, dtype):
    """Libraries may choose other products in a captured graph, or in a compiled one."""
    for one, other in zip(got, expected, strict=True):
        assert error(one, other) <= 4 * torch.finfo(dtype).eps * norm(other)


def kernels_of(call):
    """How often each kernel is launched: by its name on a GPU, which has the types of its parameters, and by these alone on the
    emulated one."""
    if emulator:
        before = len(emulator.veneer_emulated_launches())
        call()
        return Counter(emulator.veneer_emulated_launches()[before:].decode().splitlines())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profiler:
        call()
        torch.cuda.synchronize()
    return Counter({event.key: event.count for event in profiler.key_averages()})


on_hopper = pytest.mark.skipif(MAJOR != 9, reason="these kernels are sm_90a's")
