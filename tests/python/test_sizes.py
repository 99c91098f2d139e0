# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What does not fit is refused before a kernel would read past its end."""

import pytest
import torch
from torch import nn

import veneer
from core import Bound


@pytest.mark.parametrize("width", [15, 4096])
@pytest.mark.parametrize(
    "config",
    [
        veneer.LoraConfig(target_modules=["0"]),
        veneer.LoraConfig(target_modules=["0"], use_dora=True),
        veneer.SurmConfig(target_modules=["0"]),
        veneer.IA3Config(target_modules=["0"], feedforward_modules=["0"]),
    ],
    ids=["lora", "dora", "circulant", "ia3"],
)
def test_inputs_of_another_width(config, width):
    model = veneer.get_peft_model(nn.Sequential(nn.Linear(16, 16)), config)
    with pytest.raises(ValueError, match=rf"expected an input \[\*, 16\], got \[8, {width}\]"):
        model(torch.randn(8, width))


def test_a_state_of_another_width():
    class Block(nn.Module):  # whose size nothing tells
        def forward(self, x):
            return x * 2

    config = veneer.BottleneckConfig(target_modules={"output": ["0"]}, bottleneck_size=4, hidden_size=16)
    model = veneer.get_peft_model(nn.Sequential(Block()), config)
    with pytest.raises(ValueError, match=r"expected an input \[\*, 16\], got \[3, 64\]"):
        model(torch.randn(3, 64))


def test_a_module_beside_which_no_adapter_fits():
    class Pool(nn.Module):
        def forward(self, x):
            return x.mean(1)

    config = veneer.BottleneckConfig(target_modules={"parallel": ["0"]}, bottleneck_size=4, hidden_size=32)
    model = veneer.get_peft_model(nn.Sequential(Pool()), config)
    with pytest.raises(ValueError, match=r"which is 32, got \[8, 32\] for an input of sizes \[8, 512, 32\]"):
        model(torch.randn(8, 512, 32))


def test_parameters_of_other_sizes():
    bound = Bound.make("additive", {"matrix": {"name": "low_rank", "rank": 2}}, 8, 12)
    x, weight, bias = torch.randn(3, 8).double(), torch.randn(12, 8).double(), torch.randn(12).double()
    short = bound.with_params([bound.own[0][:, :4], bound.own[1]])
    with pytest.raises(ValueError, match=r"expected lora_A of sizes \[2, 8\], got \[2, 4\]"):
        short(x, weight=weight, bias=bias)
    with pytest.raises(ValueError, match=r"expected the base's weight of sizes \[12, 8\], got \[8, 12\]"):
        bound(x, weight=weight.t(), bias=bias)
    with pytest.raises(ValueError, match=r"expected the base's bias of sizes \[12\], got \[1\]"):
        bound(x, weight=weight, bias=bias[:1])
