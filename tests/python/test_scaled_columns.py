# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The op behind (IA)3: t * l with one pass each way, against its definition in float64."""

import pytest
import torch

import veneer  # noqa: F401  (loads the ops)

ops = torch.ops.veneer
TYPES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def exact(t, l, dy):
    t, l = (v.detach().double().requires_grad_() for v in (t, l))
    y = t * l
    return y, *torch.autograd.grad(y, (t, l), dy.double())


def tensors(shape, dtype, l_dtype):
    t = torch.randn(*shape, dtype=dtype)
    return t.requires_grad_(), (1 + 0.1 * torch.randn(shape[-1])).to(l_dtype).requires_grad_(), torch.randn_like(t)


def assert_close(got, expected, tolerance):
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("l_dtype", [None, torch.float32], ids=["same", "float32"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (300, 127), (2, 3, 1500), (65, 2, 768)], ids=str)
def test_values_and_gradients(shape, dtype, l_dtype):
    torch.manual_seed(0)
    t, l, dy = tensors(shape, dtype, l_dtype or dtype)
    y = ops.scaled_columns(t, l)
    dt, dl = torch.autograd.grad(y, (t, l), dy)
    assert (y.dtype, dt.dtype, dl.dtype) == (dtype, dtype, l.dtype)
    expected = exact(t, l, dy)
    assert_close(y, expected[0].detach(), TYPES[dtype])
    assert_close(dt, expected[1], TYPES[dtype])
    rows = t.numel() // t.shape[-1]
    assert_close(dl, expected[2], max(TYPES[l.dtype], 1e-6 * rows**0.5 if dtype != torch.float64 else 0))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 3)], ids=str)
def test_no_rows(shape):
    t, l, dy = tensors(shape, torch.float32, torch.float32)
    y = ops.scaled_columns(t, l)
    dt, dl = torch.autograd.grad(y, (t, l), dy)
    assert y.shape == dt.shape == shape
    assert torch.equal(dl, torch.zeros(shape[-1]))


@pytest.mark.parametrize("of", ["t", "dy"])
def test_strides(of):
    t, l, dy = tensors((3, 40, 17), torch.float32, torch.float32)
    turned = {"t": t, "dy": dy}[of].detach().transpose(0, 1).contiguous().transpose(0, 1)
    if of == "t":
        t = turned.requires_grad_()
    else:
        dy = turned
    found = torch.autograd.grad(ops.scaled_columns(t, l), (t, l), dy)
    for got, expected in zip(found, exact(t, l, dy)[1:], strict=True):
        assert_close(got, expected, 1e-5)


def test_only_what_is_wanted_is_kept_and_computed():
    t, l, dy = tensors((40, 17), torch.float32, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.shape) or v, lambda v: v):
        y = ops.scaled_columns(t, l.detach())
    assert kept == [l.shape]
    assert torch.equal(torch.autograd.grad(y, t, dy)[0], ops.scaled_columns(dy, l.detach()))
    assert torch.autograd.grad(ops.scaled_columns(t.detach(), l), l, dy)[0].shape == l.shape


def test_gradients_of_gradients():
    t, l, _ = tensors((4, 3), torch.float64, torch.float64)
    assert torch.autograd.gradcheck(ops.scaled_columns, (t, l))
    assert torch.autograd.gradgradcheck(ops.scaled_columns, (t, l))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    t, l, _ = tensors((2, 3, 8), dtype, torch.float32)
    torch.library.opcheck(ops.scaled_columns, (t, l))
    torch.library.opcheck(ops.scaled_columns_backward, (torch.randn_like(t), t.detach(), l.detach(), True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_shape_of_l_does_not_matter(dtype):
    t, l, dy = tensors((2, 3, 8), dtype, torch.float32)
    wanted = ops.scaled_columns(t, l)
    slopes = torch.autograd.grad(wanted, (t, l), dy)
    for shape in ((8, 1), (1, 8)):
        turned = l.detach().reshape(shape).requires_grad_()
        y = ops.scaled_columns(t, turned)
        dt, dl = torch.autograd.grad(y, (t, turned), dy)
        assert torch.equal(y, wanted)
        assert torch.equal(dt, slopes[0])
        assert dl.shape == shape
        assert torch.equal(dl.flatten(), slopes[1])
    turned = torch.randn(8, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(ops.scaled_columns, (t.detach().double().requires_grad_(), turned))
    torch.library.opcheck(ops.scaled_columns, (t, l.detach().reshape(8, 1).requires_grad_()))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected t \[\*, d\] and d numbers in l, got \[2, 3\] and \[4\]"):
        ops.scaled_columns(torch.zeros(2, 3), torch.zeros(4))
