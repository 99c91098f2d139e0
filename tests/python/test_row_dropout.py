# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""LyCORIS's dropouts, which leave out rows of an update or the whole of it (HF PEFT's LoKr has them)."""

import copy

import pytest
import torch
from torch import nn

import veneer

D_IN, D_OUT, CALLS = 24, 40, 200


def adapted(**dropouts):
    torch.manual_seed(5)
    base = nn.Sequential(nn.Linear(D_IN, D_OUT))
    config = veneer.LoKrConfig(r=4, init_weights=False, target_modules=["0"], **dropouts)
    return base, veneer.get_peft_model(copy.deepcopy(base), config)


def updates(model, base, x):
    """What each training call adds to the base's output, over what a call without dropout adds: [calls, D_OUT]."""
    model.eval()
    full = (model(x) - base(x)).detach()
    assert full.abs().min() > 0
    model.train()
    shares = torch.stack([((model(x) - base(x)) / full).detach() for _ in range(CALLS)])
    assert torch.allclose(shares, shares[:, :1], atol=1e-3)  # all tokens of a call alike
    return shares[:, 0]


def within_errors(shares, p):
    return abs(shares.mean() - p) < 5 * (p * (1 - p) / shares.numel()) ** 0.5


def test_rows_are_dropped_and_the_others_left_as_they_are():
    base, model = adapted(rank_dropout=0.25)
    x = torch.randn(3, D_IN)
    shares = updates(model, base, x)
    kept = shares.round()
    assert torch.allclose(shares, kept, atol=1e-3)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert within_errors(1 - kept, 0.25)


def test_the_rows_that_are_kept_may_be_divided_by_their_share():
    base, model = adapted(rank_dropout=0.5, rank_dropout_scale=True)
    shares = updates(model, base, torch.randn(3, D_IN))
    assert torch.allclose(shares.mean(1), torch.ones(CALLS), atol=1e-3)
    kept = (shares > 0.5).float()
    assert torch.allclose(shares, kept / kept.mean(1, keepdim=True), atol=2e-3)


def test_whole_updates_are_dropped():
    base, model = adapted(module_dropout=0.25)
    shares = updates(model, base, torch.randn(3, D_IN))
    assert torch.allclose(shares, shares[:, :1], atol=1e-3)
    assert within_errors(1 - shares[:, 0].round(), 0.25)


def test_gradients_are_those_of_the_rows_that_are_kept():
    base, model = adapted(rank_dropout=0.5, module_dropout=0.1)
    x = torch.randn(3, D_IN, requires_grad=True)
    matrix = copy.deepcopy(model).merge_and_unload()[0].weight.detach() - base[0].weight.detach()
    model.train()
    while True:
        y = model(x)
        kept = (((y - base(x)) / (x @ matrix.T))[0] > 0.5).float().detach()
        if 0 < kept.sum() < D_OUT:
            break
    upstream = torch.randn_like(y)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(y, [x, *parameters], upstream)
    expected = upstream @ (base[0].weight + kept[:, None] * matrix)
    assert torch.allclose(found[0], expected, atol=1e-5)
    model.eval()
    for slope, whole in zip(found[1:], torch.autograd.grad(model(x), parameters, upstream * kept), strict=True):
        assert torch.allclose(slope, whole, atol=1e-4, rtol=1e-4)


def test_the_same_rows_come_again_with_the_seed():
    _, model = adapted(rank_dropout=0.5)
    model.train()
    x = torch.randn(3, D_IN)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_not_with_dora():
    options = {"matrix": {"name": "low_rank"}, "decompose": True, "rank_dropout": 0.5}
    config = veneer.MethodConfig(method="additive", options=options, target_modules=["0"])
    with pytest.raises(ValueError, match="cannot be combined with rank_dropout or module_dropout"):
        veneer.get_peft_model(nn.Sequential(nn.Linear(D_IN, D_OUT)), config)
