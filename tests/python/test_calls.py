# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""How many of torch's operators a step of a small layer calls, which is what such a layer's time is: counted, not timed."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import veneer

TARGETS = {"target_modules": ["0"]}
# The most that a step may call, forward and backward, the operators that others call among them: a tenth more than it does with torch
# 2.11. HF PEFT's LoRA calls 91, its DoRA 154, its VeRA 74.
CASES = {
    "lora": (veneer.LoraConfig(r=8, **TARGETS), 46),
    "lora with dropout": (veneer.LoraConfig(r=8, lora_dropout=0.1, **TARGETS), 49),
    "dora": (veneer.LoraConfig(r=8, use_dora=True, **TARGETS), 81),
    "ia3": (veneer.IA3Config(feedforward_modules=[], **TARGETS), 38),
    "vera": (veneer.VeraConfig(r=16, **TARGETS), 107),
    "circulant": (veneer.SurmConfig(structure="circulant", form="single", **TARGETS), 52),
}


def calls(layer, x):
    """Operator -> how often one step calls it."""
    for parameter in layer.parameters():
        parameter.grad = None
    x.grad = None
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        layer(x).backward(torch.ones_like(x))
    return {event.key: event.count for event in profiler.key_averages() if event.key.startswith("aten::")}


@pytest.mark.parametrize("case", CASES)
def test_a_step_calls_few_operators(case):
    config, most = CASES[case]
    layer = veneer.get_peft_model(nn.Sequential(nn.Linear(64, 64)), config).train()
    x = torch.randn(16, 64, requires_grad=True)
    calls(layer, x)  # what is made once
    found = calls(layer, x)
    assert sum(found.values()) <= most, found
