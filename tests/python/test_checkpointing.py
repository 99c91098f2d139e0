# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: the same loss and gradients as without, reentrant or not, with dropout, on frozen embeddings."""

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble
from models import MODELS
from rows import EACH_ROW, adapt
from torch.utils.checkpoint import checkpoint

import veneer

TRANSFORMERS = [pytest.param(MODELS[name], id=name) for name in ("bert", "vit", "gpt2", "llama", "t5")]


def enable(model, reentrant):
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})


def step(model, adapted):
    """(loss, gradients) of one seeded step in training mode. By backward(): reentrant checkpoints know no autograd.grad."""
    adapted.train()
    adapted.zero_grad()
    torch.manual_seed(9)
    loss = loss_of(model.run(adapted))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in adapted.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("row", EACH_ROW)
@pytest.mark.parametrize("model", TRANSFORMERS)
def test_same_gradients(model, row, reentrant):
    changes = {row.dropout: 0.3} if row.dropout else {}
    adapted = scramble(adapt(model, row, **changes))
    calls = []
    first = [*adapted.base_model.layers()[0].base_layer.modules()][:2][
        -1
    ]  # hooks of a whole block run outside its checkpoint
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    loss, expected = step(model, adapted)
    once = len(calls)
    assert all(g.abs().max() > 0 for g in expected.values())
    assert once

    # Switched on before adapting: the wrapper makes the embeddings' outputs need a gradient.
    base = model.build()
    enable(base, reentrant)
    early = veneer.get_peft_model(base, row.make(model, **changes))
    early.load_state_dict(adapted.state_dict())
    # Switched on after, as Trainer does it.
    enable(adapted, reentrant)
    adapted.enable_input_require_grads()
    for one in (early, adapted):
        got_loss, got = step(model, one)
        torch.testing.assert_close(got_loss, loss, rtol=1e-5, atol=1e-5)  # T5's attention may take another kernel
        # Where the embeddings need a gradient, products are taken in another order; small numbers are sums of large ones.
        largest = {n: max(1.0, g.abs().max().item()) for n, g in expected.items()}
        relative = [{n: g / largest[n] for n, g in found.items()} for found in (got, expected)]
        assert_same(*relative, rtol=1e-4, atol=1e-5)
    assert len(calls) > 2 * once  # it was really run again


@pytest.mark.parametrize("row", EACH_ROW)
def test_any_module(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row, **({row.dropout: 0.3} if row.dropout else {}))).train()
    x = model.inputs()["x"].requires_grad_()
    torch.manual_seed(9)
    expected = gradients(adapted, loss_of(adapted(x)))
    torch.manual_seed(9)
    got = gradients(adapted, loss_of(checkpoint(adapted, x, use_reentrant=False)))
    assert_same(got, expected)
