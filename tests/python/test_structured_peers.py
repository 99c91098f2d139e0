# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Structured matrices held to their peers with equal parameters: C3A to HF PEFT, tensor trains to tensorly-torch. LoKr and the
files of both are in test_peft.py."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import veneer
from core import Bound

SIZES = [(12, 12), (12, 8), (21, 7), (7, 7)]


def c3a(d_in, d_out, block_size):
    """(ours, theirs): one adapted layer with equal base and equal random kernels, float64 bases."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    base = nn.Sequential(nn.Linear(d_in, d_out)).double()
    fields = {"target_modules": ["0"], "block_size": block_size, "init_weights": "gaussian"}
    ours = veneer.get_peft_model(_copy(base), veneer.C3AConfig(**fields))
    theirs = peft.get_peft_model(_copy(base), peft.C3AConfig(**fields))
    with torch.no_grad():
        for mine, other in zip(_trained(ours), _trained(theirs), strict=True):
            assert mine.shape == other.shape
            mine.copy_(other)
    return ours, theirs


def _copy(module):
    twin = nn.Sequential(nn.Linear(module[0].in_features, module[0].out_features)).double()
    twin.load_state_dict(module.state_dict())
    return twin


def _trained(model):
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(("d_in", "d_out"), SIZES)
def test_c3a_equals_peft(d_in, d_out):
    """HF PEFT 0.21's own input gradient is not that of its forward (w[j + k] where w[j - k] is meant): there our gradient is
    held to the effective weight instead, and PEFT's is shown to differ."""
    block = {12: 4, 21: 7, 7: 7}[d_in]
    ours, theirs = c3a(d_in, d_out, block)
    x = torch.randn(5, d_in, dtype=torch.float64)
    upstream = torch.randn(5, d_out, dtype=torch.float64)
    results = []
    for model in (ours, theirs):
        given = x.clone().requires_grad_()
        y = model(given)
        results.append((y, *torch.autograd.grad(y, [given, *_trained(model)], upstream)))
    # PEFT rounds its kernels to float32, whatever the base's dtype.
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-5, atol=1e-6)
    merged = ours.merge_and_unload()[0].weight
    torch.testing.assert_close(results[0][1], upstream @ merged, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(merged, theirs.merge_and_unload()[0].weight, rtol=1e-6, atol=1e-6)
    if block > 2:
        assert (results[1][1] - upstream @ merged).abs().max() > 1e-3


def test_c3a_files_go_both_ways(tmp_path):
    peft = pytest.importorskip("peft")
    ours, theirs = c3a(12, 8, 4)
    x = torch.randn(5, 12, dtype=torch.float64)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    base = ours.unload()
    there = peft.PeftModel.from_pretrained(_copy(base), tmp_path / "ours")
    here = veneer.PeftModel.from_pretrained(_copy(base), tmp_path / "theirs")
    torch.testing.assert_close(here(x), theirs(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(there(x), here(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [([8, 8, 12], [8, 8, 12]), ([4, 6], [6, 12])])
def test_block_tensor_trains_equal_tensorly_torch(rows, columns):
    tltorch = pytest.importorskip("tltorch")
    d_out, d_in = torch.tensor(rows).prod().item(), torch.tensor(columns).prod().item()
    options = {"matrix": {"name": "tensor_train", "rank": 3, "layout": "block"}}
    bound = Bound.make("additive", options, d_in, d_out)
    assert [tuple(p.shape[1:3]) for p in bound.params] == list(zip(rows, columns, strict=True))
    shape, rank = (tuple(rows), tuple(columns)), (1, *[3] * (len(rows) - 1), 1)
    theirs = tltorch.FactorizedLinear(
        tuple(columns), tuple(rows), bias=False, factorization="blocktt", rank=rank, implementation="factorized"
    ).double()
    assert theirs.weight.tensorized_shape == shape
    with torch.no_grad():
        for mine, other in zip(bound.params, theirs.weight.factors, strict=True):
            other.copy_(mine)
    x = torch.randn(4, d_in, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, d_out, dtype=torch.float64)
    ours = bound(x, y=torch.zeros(4, d_out, dtype=torch.float64))
    other = theirs(x)
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
    got = torch.autograd.grad(ours, [x, *bound.params], upstream)
    expected = torch.autograd.grad(other, [x, *theirs.weight.factors], upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("d", [24, 768])
def test_loretta_s_train_is_its_authors_product(d):
    """A_TT [d_in, r] and B_TT [r, d_out] as reshaped products of their cores, y += alpha / r * x A B."""
    model = veneer.get_peft_model(
        nn.Sequential(nn.Linear(d, d)).double(), veneer.LorettaConfig(target_modules=["0"], r=8, lora_alpha=16)
    )
    for p in _trained(model):
        nn.init.normal_(p)
    trains = {"part1": None, "part0": None}
    for name, core in model.named_parameters():
        if core.requires_grad:
            part = next(key for key in trains if key in name)
            trains[part] = core if trains[part] is None else torch.tensordot(trains[part], core, 1)
    down, up = trains["part1"].reshape(d, 8), trains["part0"].reshape(8, d)
    x = torch.randn(3, d, dtype=torch.float64)
    base = model.get_base_model()[0].base_layer
    torch.testing.assert_close(model(x), F.linear(x, base.weight, base.bias) + 2 * x @ down @ up)
    assert sum(p.numel() for p in _trained(model)) == {24: 420, 768: 1160}[d]
