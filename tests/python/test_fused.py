# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Fused paths: one node with its own gradient. The generic suites hold their numbers to the definitions; here is when they are
taken, and that they are the composed path in every other respect."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import veneer
from veneer import AdditiveConfig, BottleneckConfig, LoraConfig, SurmAdapterConfig, SurmConfig, VeraConfig

CASES = {
    "lora": (LoraConfig(target_modules=["0"], r=3), 12, 8),
    "lora dropout": (LoraConfig(target_modules=["0"], r=3, lora_dropout=0.25), 12, 8),
    "circulant": (SurmConfig(target_modules=["0"]), 12, 12),
    "circulant wide": (SurmConfig(target_modules=["0"], dropout=0.25), 7, 21),
    "circulant narrow": (SurmConfig(target_modules=["0"], dropout=0.25), 21, 7),
    "circulant blocks": (SurmConfig(target_modules=["0"], form="single"), 12, 8),
    "symmetric toeplitz": (SurmConfig(target_modules=["0"], structure="symmetric_toeplitz", dropout=0.25), 12, 7),
    "ldr": (SurmConfig(target_modules=["0"], structure="ldr", rank=2), 12, 12),
    "kronecker": (SurmConfig(target_modules=["0"], structure="kronecker", dropout=0.25), 12, 8),
    "dense": (AdditiveConfig(target_modules=["0"], matrix="dense", dropout=0.25), 12, 8),
    "vera": (VeraConfig(target_modules=["0"], r=5), 12, 8),
    "lorta": (
        AdditiveConfig(
            target_modules=["0"], matrix={"name": "cp", "rank": 3, "heads": 2, "role": "q", "layer": 0}, dropout=0.25
        ),
        12,
        8,
    ),
    "sum": (
        AdditiveConfig(target_modules=["0"], matrix={"name": "sum", "terms": ["monarch", "diagonal"]}, dropout=0.25),
        12,
        8,
    ),
    "circulant padded": (SurmConfig(target_modules=["0"], block_size=4, padding=True, dropout=0.25), 5, 7),
    "dora": (LoraConfig(target_modules=["0"], r=3, use_dora=True), 12, 8),
    "dora, shared dropout": (
        AdditiveConfig(target_modules=["0"], use_dora=True, dora_dropout="shared", dropout=0.25),
        8,
        12,
    ),
}
# Without dropout, and with many rows as here, a matrix is added to the weight, in float32 and float64.
MERGED = [
    "block_diagonal",
    "butterfly",
    "circulant",
    "dense",
    "diagonal",
    "hankel",
    "lokr",
    "monarch",
    "phm",
    "skew_circulant",
    "tensor_train",
    "toeplitz",
    "vera",
    {"name": "block_circulant", "block_size": 4},
    {"name": "kronecker", "form": "chain", "factors": [[2, 1], [2, 2], [2, 3], [1, 2]]},
    {"name": "low_displacement_rank", "rank": 2},
    {"name": "low_displacement_rank", "rank": 2, "operator": "toeplitz"},
    {"name": "low_displacement_rank", "operator": "hankel"},
    {"name": "product", "factors": ["diagonal", "circulant"]},
    {"name": "sum", "terms": ["low_rank", "toeplitz"]},
    "symmetric_toeplitz",
    {"name": "symmetric_toeplitz", "form": "elementwise"},
]
for matrix in MERGED:
    for dora in (False, True):
        name = f"{'dora ' if dora else ''}merged {matrix if isinstance(matrix, str) else ' '.join(map(str, matrix.values()))}"
        CASES[name] = (AdditiveConfig(target_modules=["0"], matrix=matrix, use_dora=dora, scaling=0.75), 12, 8)
ADDED = [case for case in CASES if "dora" not in case]  # whose update is added to the base's output
# At the layer's output, whatever the layer is: adapters with a nonlinearity.
OUTPUT = {"target_modules": {"output": ["0"]}}
HIDDEN = {
    "surm adapter": (SurmAdapterConfig(**OUTPUT, dropout=0.25), 8, 12),
    "surm adapter ldr": (SurmAdapterConfig(**OUTPUT, structure="ldr", scaling=0.75), 8, 12),
    "surm adapter kronecker": (SurmAdapterConfig(**OUTPUT, structure="kronecker", use_bias=False), 8, 12),
    "update of a state": (AdditiveConfig(**OUTPUT, matrix="dense", dropout=0.25), 8, 12),
    "bottleneck": (BottleneckConfig(**OUTPUT, bottleneck_size=3, dropout=0.25, scaling=0.75), 8, 12),
    "bottleneck circulant": (BottleneckConfig(**OUTPUT, bottleneck_size=3, matrix="circulant"), 8, 12),
    "bottleneck low rank": (
        BottleneckConfig(**OUTPUT, bottleneck_size=6, down_matrix={"name": "low_rank", "rank": 2}, use_bias=False),
        8,
        12,
    ),
}


def make(case, dtype=torch.float32):
    config, d_in, d_out = (CASES | HIDDEN)[case]
    torch.manual_seed(0)
    model = veneer.get_peft_model(nn.Sequential(nn.Linear(d_in, d_out)).to(dtype), config, autocast_adapter_dtype=False)
    for parameter in trained(model):
        nn.init.normal_(parameter, 0, 0.5)
    return model.train(), torch.randn(300, d_in, dtype=dtype, requires_grad=True)


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def results(model, x, run=lambda model, x: model(x)):
    """Output and gradients of x and all parameters, with one dropout mask."""
    torch.manual_seed(5)
    y = run(model, x)
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, *trained(model)])]


def fused(y):
    """Whether a layer's node of its own is in the graph of y."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [next_node for next_node, _ in node.next_functions]
    return any(own in node.name() for node in seen for own in ("FusedFunction", "ScaledLinear"))


def report(path):
    """What the subprocess below computes: every case, and under autocast too."""
    everything = {}
    for case in CASES | HIDDEN:
        model, x = make(case)
        everything[case] = [fused(model(x)), results(model, x)]
        with torch.autocast("cpu", torch.bfloat16):
            everything[case + " autocast"] = [fused(model(x)), results(model, x)]
    torch.save(everything, path)


def test_the_composed_path_gives_the_same(tmp_path):
    for name, variables in {"fused": {}, "composed": {"VENEER_COMPOSED": "1"}}.items():
        code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_fused; test_fused.report(sys.argv[1])"
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(command, env={**os.environ, **variables, "OMP_NUM_THREADS": "1"}, check=True)
    ours, theirs = torch.load(tmp_path / "fused"), torch.load(tmp_path / "composed")
    assert ours.keys() == theirs.keys()
    for case in ours:
        # DoRA's norms are of the weight before autocast rounds it.
        assert ours[case][0] or ("dora" in case and "autocast" in case), f"{case}: the fused path was not taken"
        assert not theirs[case][0], f"{case}: VENEER_COMPOSED=1 was not obeyed"
        for one, other in zip(ours[case][1], theirs[case][1], strict=True):
            assert one.dtype == other.dtype
            unit = torch.finfo(torch.bfloat16 if "autocast" in case else torch.float32).eps
            torch.testing.assert_close(one, other, rtol=0, atol=(16 * unit * other.abs().max()).item())


@pytest.mark.parametrize("case", [*ADDED, *HIDDEN])  # DoRA stops the norms' gradient
def test_second_derivatives(case):
    model, x = make(case, torch.float64)
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def run(x, *tensors):
        torch.manual_seed(5)
        return torch.func.functional_call(model, dict(zip(names, tensors, strict=True)), x)

    inputs = (x.detach()[:3].requires_grad_(), *trained(model))
    assert fused(run(*inputs))
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("case", ["lora", "circulant"])
def test_transforms_and_forward_mode_take_the_composed_path(case):
    model, x = make(case, torch.float64)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    values = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(values):
        return torch.func.functional_call(model, values, x.detach()).square().sum()

    expected = torch.autograd.grad(model(x.detach()).square().sum(), trained(model))
    gradients = torch.func.grad(loss)(values)
    tangents = {name: torch.randn_like(value) for name, value in values.items()}
    _, directional = torch.func.jvp(loss, (values,), (tangents,))
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(gradients[name], gradient)
    torch.testing.assert_close(
        directional, sum((g * t).sum() for g, t in zip(expected, tangents.values(), strict=True))
    )


@pytest.mark.parametrize("case", ADDED)
def test_a_trained_base_gets_its_gradients(case):
    model, x = make(case)
    layer = model.get_base_model()[0]
    layer.base_layer.weight.requires_grad_()
    layer.base_layer.bias.requires_grad_()
    y = model(x)
    assert not fused(y)
    y.sum().backward()
    torch.testing.assert_close(layer.base_layer.bias.grad, torch.full_like(layer.base_layer.bias, len(x)))
    torch.testing.assert_close(layer.base_layer.weight.grad, x.sum(0).expand_as(layer.base_layer.weight))


@pytest.mark.parametrize("case", CASES | HIDDEN)
def test_threads_do_not_change_the_result(case):
    model, x = make(case)
    one = results(model, x)
    torch.set_num_threads(3)
    for a, b in zip(one, results(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * a.abs().max().item())


@pytest.mark.parametrize("case", CASES | HIDDEN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_training(case, dtype):
    """No further from float64 than the composed formula in the same precision, within a few roundings."""
    model, x = make(case, dtype)
    torch.manual_seed(5)
    y = model(x)
    assert fused(y)
    gradients = torch.autograd.grad(y.sum(), [x, *trained(model)])
    exact, _ = make(case, torch.float64)
    exact.load_state_dict(model.state_dict())
    wide = x.detach().double().requires_grad_()
    torch.manual_seed(5)
    expected = exact(wide)
    for one, other in zip(
        [y, *gradients], [expected, *torch.autograd.grad(expected.sum(), [wide, *trained(exact)])], strict=True
    ):
        assert one.dtype == dtype
        error = (one.double() - other).norm() / other.norm()
        assert error < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("case", CASES | HIDDEN)
def test_empty_and_odd_inputs(case):
    model, x = make(case)
    y = model(x[:0])
    y.sum().backward()
    assert y.shape[0] == 0
    assert all(p.grad is not None and not p.grad.any() for p in trained(model))
    model.eval()
    flat = model(x)
    torch.testing.assert_close(model(x[0]), flat[0])
    torch.testing.assert_close(model(x.view(3, 100, -1)), flat.view(3, 100, -1))
    strided = torch.stack([x, x], dim=-1)[..., 0]  # not contiguous
    torch.testing.assert_close(model(strided), flat)


@pytest.mark.parametrize("case", CASES | HIDDEN)
@pytest.mark.parametrize("rows", [2, 300])
def test_parameters_that_are_not_contiguous(case, rows):
    model, x = make(case)
    model.eval()

    def step():
        y = model(x[:rows])
        return y, *torch.autograd.grad(y.square().sum(), trained(model))

    wanted = step()
    for parameter in trained(model):
        parameter.data = torch.stack([parameter.data, parameter.data], dim=-1)[..., 0]
        assert parameter.numel() == 1 or not parameter.is_contiguous()
    for one, other in zip(step(), wanted, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("case", CASES)
def test_a_trained_bias_stays_on_the_fused_path(case):
    """Its gradient is that of the output, summed over rows."""
    model, x = make(case)
    bias = model.get_base_model()[0].base_layer.bias.requires_grad_()
    for given in (x, x.view(3, 100, -1), x[0]):
        y = model(given)
        assert fused(y)
        upstream = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, bias, upstream)
        torch.testing.assert_close(gradient, upstream.reshape(-1, y.shape[-1]).sum(0))
