# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Gradients with create_graph are those without, however the tensors of a call came about."""

import pytest
import torch
from checks import scramble, trained
from torch import nn
from torch.nn import functional as F

import veneer

ONE = {"target_modules": ["fc"]}
HIDDEN = {"target_modules": {"output": ["fc"]}}
CONFIGS = {
    "lora": veneer.LoraConfig(r=3, **ONE),
    "dora": veneer.LoraConfig(r=3, use_dora=True, **ONE),
    "circulant": veneer.SurmConfig(**ONE),
    "vera": veneer.VeraConfig(r=3, **ONE),
    "ia3": veneer.IA3Config(feedforward_modules=[], **ONE),
    "bottleneck": veneer.BottleneckConfig(bottleneck_size=4, **HIDDEN),
    "surm_adapter": veneer.SurmAdapterConfig(**HIDDEN),
    "compacter": veneer.CompacterConfig(phm_dim=2, bottleneck_size=4, **HIDDEN),
}


class Twice(nn.Module):
    """One layer that is called twice, as ALBERT's are."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 12)

    def forward(self, x):
        return self.fc(torch.tanh(self.fc(x)))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_that_is_called_twice(name):
    model = scramble(veneer.get_peft_model(Twice(), CONFIGS[name]).double())
    inputs = [torch.randn(5, 12, dtype=torch.float64, requires_grad=True), *trained(model).values()]

    def gradients(**how):
        return torch.autograd.grad(model(inputs[0]).pow(2).sum(), inputs, **how)

    torch.testing.assert_close(gradients(create_graph=True), gradients())


def test_parameters_made_of_the_input():
    model = scramble(veneer.get_peft_model(Twice(), CONFIGS["lora"]).double())
    x = torch.randn(5, 12, dtype=torch.float64, requires_grad=True)
    made = {name: p + x.sum() for name, p in trained(model).items()}

    def gradient(**how):
        y = torch.func.functional_call(model, made, (x,))
        return torch.autograd.grad(y.pow(2).sum(), x, retain_graph=True, **how)

    torch.testing.assert_close(gradient(create_graph=True), gradient())


def test_frozen_adapters():
    layer = veneer.get_peft_model(Twice(), CONFIGS["bottleneck"]).requires_grad_(False)
    layer.get_base_model().fc.base_layer.bias.requires_grad_(True)  # so that y alone requires a gradient
    update = veneer.get_peft_model(Twice(), CONFIGS["lora"]).requires_grad_(False)
    update.get_base_model().fc.base_layer.bias.requires_grad_(True)
    for model in (layer, update):
        fc, x = model.get_base_model().fc, torch.randn(5, 12)
        (got,) = torch.autograd.grad(fc(x).pow(2).sum(), fc.base_layer.bias, create_graph=True)
        (expected,) = torch.autograd.grad(fc(x).pow(2).sum(), fc.base_layer.bias)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_of_wider_adapters(dtype):
    """Convolutions whose length has a large prime factor go through the library, in the wider of two dtypes."""
    d = 22
    model = scramble(
        veneer.get_peft_model(nn.Sequential(nn.Linear(d, d)), veneer.SurmConfig(structure="ldr", target_modules=["0"]))
    )
    exact = model.double()
    x = torch.randn(40, d)

    def gradients(of, given):
        return torch.autograd.grad(of(given).pow(2).sum(), list(trained(of).values()))

    expected = gradients(exact, x.double())
    for p in (model.get_base_model()[0].base_layer.weight, model.get_base_model()[0].base_layer.bias):
        p.data = p.data.float()
    for p in trained(model).values():
        p.data = p.data.to(dtype)
    for got, want in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_second_derivatives_of_a_layer_that_is_called_twice():
    model = scramble(veneer.get_peft_model(Twice(), CONFIGS["lora"]).double())
    names, values = zip(*trained(model).items(), strict=True)
    x = torch.randn(3, 12, dtype=torch.float64)

    def call(*given):
        return torch.func.functional_call(model, dict(zip(names, given, strict=True)), (x,))

    def by_hand(a, b):
        fc = model.get_base_model().fc.base_layer
        scale = 8 / 3
        one = lambda u: F.linear(u, fc.weight, fc.bias) + scale * F.linear(F.linear(u, a), b)  # noqa: E731
        return one(torch.tanh(one(x)))

    def curvature(f):
        first = torch.autograd.grad(f(*values).pow(2).sum(), values, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), values)

    torch.testing.assert_close(call(*values), by_hand(*values))
    torch.testing.assert_close(curvature(call), curvature(by_hand))
