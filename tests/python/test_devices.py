# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Models and inputs on several devices, here those of fake tensors: they have a GPU's address, and no numbers."""

import pytest
import torch
from checks import trained
from models import MODELS
from rows import EACH_ROW, ROWS, adapt
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import veneer


class TwoDevices(nn.Module):
    """As `device_map` spreads a model: each layer on a device, and inputs that follow."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"query": nn.Linear(24, 24, device=device)}) for device in ("cuda:0", "cuda:1")
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer["query"](x.to(layer["query"].weight.device))
        return x


@pytest.mark.parametrize(
    "config",
    [
        veneer.LoraConfig(target_modules=["query"]),
        veneer.VeraConfig(r=4, target_modules=["query"]),
        veneer.LortaConfig(r=4, num_attention_heads=3, target_modules=["query"]),
        veneer.CompacterConfig(phm_dim=2, bottleneck_size=4, target_modules={"output": ["query"]}),
    ],
    ids=["lora", "vera", "lorta", "compacter"],
)
def test_a_model_on_two_devices(config):
    with FakeTensorMode(), torch.no_grad():
        model = veneer.get_peft_model(TwoDevices(), config)
        assert model(torch.randn(5, 24, device="cuda:0")).device == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["lora", "circulant", "dora", "ia3", "vera", "houlsby", "surm_adapter"])
def test_tensors_of_another_device_are_refused(name):
    """A kernel takes addresses, and would not notice."""
    model = MODELS["bert"]
    adapted = adapt(model, ROWS[name])
    for layer in adapted.base_model.layers():
        for holder, tensor in layer.adapters["default"].own:
            holder._parameters[tensor] = nn.Parameter(holder._parameters[tensor].to("meta"))
    with pytest.raises(ValueError, match=r"expected all tensors on one device, got \w+ on meta and an input on cpu"):
        model.run(adapted)


@pytest.mark.parametrize("row", EACH_ROW)
def test_the_meta_device_tells_sizes(row):
    model = MODELS["mlp"]
    adapted = adapt(model, row).to("meta").train()
    y = adapted(x=model.inputs()["x"].to("meta"))
    assert y.is_meta
    assert y.shape == model.base_output().shape
    y.sum().backward()
    assert all(p.grad.is_meta for p in trained(adapted).values())
