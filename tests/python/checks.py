# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What the model suites do with an adapted model, and how they compare results."""

from __future__ import annotations

import torch


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def scramble(model, std=0.3, seed=5):
    """Moves every trained parameter: as after training, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def gradients(model, loss):
    """name -> gradient of every trained parameter."""
    names = trained(model)
    found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    return dict(zip(names, found, strict=True))


def loss_of(output, seed=7):
    """A scalar that weighs every output differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output.dtype)
    return (output * weights).sum()


def assert_same(got, expected, **tolerances):
    """Two dictionaries of tensors agree, key by key: exactly, or within tolerances."""
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        if tolerances:
            torch.testing.assert_close(got[key], tensor, **tolerances, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert torch.equal(got[key], tensor), key
