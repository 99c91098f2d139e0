# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter layers of two dense matrices, held to the formula in float64: where the residual is the adapter's own input, which
then has one gradient, and where it is another tensor."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from veneer import BottleneckConfig, get_peft_model

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Doubled(nn.Module):
    """A block whose output is not its input."""

    def forward(self, x):
        return 2 * x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.same, self.doubled = nn.Identity(), Doubled()


def adapter(wiring: str, d: int, **fields) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The adapted block, with the adapter's parameters at random."""
    places = {"output": ["same"]} if wiring == "output" else {wiring: ["doubled"]}
    net = Net()
    model = get_peft_model(net, BottleneckConfig(target_modules=places, hidden_size=d, **fields))
    layer = model.base_model.layers()[0].adapters["default"]
    names = (
        ["down_weight", "down_bias", "up_weight", "up_bias"]
        if fields.get("use_bias", True)
        else ["down_weight", "up_weight"]
    )
    parameters = dict(zip(names, layer.params(), strict=True))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(0, 0.5)
    return (net.same if wiring == "output" else net.doubled), parameters


def by_hand_inner(x, p):
    z = x @ p["down_weight"].T
    return z + p["down_bias"] if "down_bias" in p else z


def by_hand(x, y, p, activation, scale):
    update = activation(by_hand_inner(x, p)) @ p["up_weight"].T
    return y + scale * (update + p["up_bias"] if "up_bias" in p else update)


def clear_of_the_kink(x, p):
    """x without rows for which float32 sums may fall on either side of relu's kink: the slope there is none to compare."""
    z = by_hand_inner(x.double(), {name: t.detach().double() for name, t in p.items()})
    return torch.where((z.abs() < 1e-4).any(-1, keepdim=True), 0, x)


def compare(
    wiring, shape, size, dtype=torch.float32, activation="gelu", scale=1.0, bias=True, device="cpu", own_dtype=None
):
    """Output and every gradient against the formula in float64; used by test_gpu_numbers.py too. `own_dtype`: the adapter's."""
    layer, parameters = adapter(
        wiring, shape[-1], bottleneck_size=size, non_linearity=activation, scaling=scale, use_bias=bias
    )
    with torch.no_grad():
        parameters["down_weight"].mul_(size**0.5 / shape[-1] ** 0.5)  # inner numbers of one size for every shape
    layer.to(device, own_dtype or dtype)
    torch.manual_seed(1)
    x, slope = torch.randn(shape).to(device, dtype), torch.randn(shape).to(device, dtype)
    if activation == "relu":
        x = clear_of_the_kink(x, parameters)
    results = []
    for kind in (dtype, torch.float64):
        leaf = x.to(kind, copy=True).requires_grad_()
        if kind is dtype:
            own, out = parameters, layer(leaf)
        else:
            own = {name: p.detach().to(kind).requires_grad_() for name, p in parameters.items()}
            out = by_hand(leaf, leaf if wiring == "output" else 2 * leaf, own, ACTIVATIONS[activation], scale)
        assert out.dtype is kind
        assert out.shape == shape
        names = list(own)
        grads = torch.autograd.grad(out, [leaf, *(own[name] for name in names)], slope.to(kind))
        results.append(dict(zip(["output", "x", *names], [out, *grads], strict=True)))
    for name, expected in results[1].items():
        error = (results[0][name].double() - expected).abs().max() / expected.abs().max()
        assert error < (2e-5 if dtype is torch.float32 else 2e-2), (name, error)


@pytest.mark.parametrize("wiring", ["output", "parallel:0"])
@pytest.mark.parametrize(
    ("shape", "size"), [((1, 5), 1), ((37, 8), 3), ((3, 101, 13), 13), ((2, 700, 96), 48), ((129, 200), 64)]
)
def test_shapes(wiring, shape, size):
    compare(wiring, shape, size)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_activations(activation, dtype):
    compare("output", (150, 24), 7, dtype, activation)


@pytest.mark.parametrize("wiring", ["output", "parallel:0"])
@pytest.mark.parametrize("bias", [True, False])
def test_factors_and_biases(wiring, bias):
    compare(wiring, (65, 40), 10, scale=-0.3, bias=bias)


def test_matrices_wider_than_tiles_take():
    compare("output", (300, 160), 100)


def test_a_frozen_input_and_frozen_matrices():
    layer, parameters = adapter("output", 16, bottleneck_size=4)
    x = torch.randn(20, 16)
    every = torch.autograd.grad(layer(x).square().sum(), list(parameters.values()))
    parameters["down_weight"].requires_grad_(False)
    rest = [name for name in parameters if name != "down_weight"]
    found = torch.autograd.grad(layer(x).square().sum(), [parameters[name] for name in rest])
    for name, gradient in zip(rest, found, strict=True):
        assert torch.equal(gradient, every[list(parameters).index(name)]), name


@pytest.mark.parametrize("p", [0.3, 0.9])
@pytest.mark.parametrize("wiring", ["output", "parallel:0"])
def test_dropout_leaves_the_residual_whole(wiring, p):
    """With one mask forward and backward: the gradient is that of the linear map which the layer is with relu off."""
    layer, parameters = adapter(wiring, 32, bottleneck_size=8, non_linearity="relu", dropout=p)
    with torch.no_grad():
        parameters["down_bias"].fill_(1e3)  # where relu is the identity
    x = torch.randn(64, 32, requires_grad=True)
    layer.train()
    torch.manual_seed(5)
    out = layer(x)
    slope = torch.randn_like(out)
    (dx,) = torch.autograd.grad(out, x, slope)
    step = torch.randn_like(x)
    torch.manual_seed(5)
    along = layer((x + step).detach()) - out.detach()
    torch.testing.assert_close((along * slope).sum(), (dx * step).sum(), rtol=2e-3, atol=0.1)
    torch.manual_seed(5)
    whole = (x if wiring == "output" else 2 * x).detach()
    dropped = ((out.detach() - whole - layer(torch.zeros_like(x)).detach()).abs() < 1e-6).float().mean()
    assert dropped < 0.5  # of the update, none of whose rows is dropped whole


def test_the_gradient_of_a_gradient():
    layer, _ = adapter("output", 6, bottleneck_size=3, non_linearity="tanh")
    layer.double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_the_same_for_any_number_of_threads():
    layer, parameters = adapter("output", 96, bottleneck_size=16)
    x = torch.randn(500, 96, requires_grad=True)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(torch.autograd.grad(layer(x).square().sum(), [x, *parameters.values()]))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
