# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The op behind (IA)3 at a linear layer, l * (x W^T + b), against its definition in float64; and what it leaves to two calls."""

import pytest
import torch
from test_scaled_columns import TYPES, assert_close
from torch import nn
from torch.nn import functional as F

import veneer
from core import Bound

ops = torch.ops.veneer
each_dtype = pytest.mark.parametrize("dtype", TYPES, ids=str)


def exact(x, weight, bias, l, dy):
    x, weight, l, dy = (t.detach().double() for t in (x, weight, l, dy))
    x, l = x.requires_grad_(), l.requires_grad_()
    y = F.linear(x, weight, None if bias is None else bias.double()) * l
    return y.detach(), *torch.autograd.grad(y, (x, l), dy)


def tensors(shape, d_out, dtype, l_dtype=None, bias=True):
    torch.manual_seed(0)
    x, dy = torch.randn(*shape, dtype=dtype), torch.randn(*shape[:-1], d_out, dtype=dtype)
    weight, b = torch.randn(d_out, shape[-1], dtype=dtype) / shape[-1] ** 0.5, torch.randn(d_out, dtype=dtype)
    l = (1 + 0.1 * torch.randn(d_out)).to(l_dtype or dtype)
    return x.requires_grad_(), weight, b if bias else None, l.requires_grad_(), dy


def assert_gradients(got, expected, dtype, rows):
    """Sums of products in 16 bits are rounded twice; those over rows in float32."""
    assert_close(got[0].detach(), expected[0], 2 * TYPES[dtype])
    assert_close(got[1], expected[1], 4 * TYPES[dtype])
    rounding = max(TYPES[dtype], TYPES[got[2].dtype])
    assert_close(got[2], expected[2], 4 * rounding + (1e-6 * rows**0.5 if dtype != torch.float64 else 0))


@pytest.mark.parametrize("l_dtype", [None, torch.float32], ids=["same", "float32"])
@each_dtype
@pytest.mark.parametrize(
    ("shape", "d_out", "bias"),
    [
        ((5,), 3, True),
        ((1, 1), 1, True),
        ((3, 7), 13, False),
        ((300, 127), 5, True),
        ((2, 3, 64), 96, True),
        ((70, 96), 64, False),
    ],
    ids=str,
)
def test_values_and_gradients(shape, d_out, bias, dtype, l_dtype):
    given = tensors(shape, d_out, dtype, l_dtype, bias)
    x, weight, b, l, dy = given
    y, plain = ops.scaled_linear(x, weight, b, l)
    found = (y, *torch.autograd.grad(y, (x, l), dy))
    assert [t.dtype for t in found] == [dtype, dtype, l.dtype]
    assert_close(
        plain.detach(),
        F.linear(x.double(), weight.double(), None if b is None else b.double()).detach(),
        2 * TYPES[dtype],
    )
    assert_gradients(found, exact(*given), dtype, x.numel() // shape[-1])


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 3)], ids=str)
def test_no_rows(shape):
    x, weight, b, l, dy = tensors(shape, 4, torch.float32)
    y, _ = ops.scaled_linear(x, weight, b, l)
    dx, dl = torch.autograd.grad(y, (x, l), dy)
    assert y.shape == dy.shape
    assert dx.shape == shape
    assert torch.equal(dl, torch.zeros(4))


@pytest.mark.parametrize("of", ["x", "weight", "dy"])
def test_strides(of):
    given = dict(zip(("x", "weight", "bias", "l", "dy"), tensors((3, 40, 17), 9, torch.float32), strict=True))
    turned = given[of].detach().transpose(0, 1).contiguous().transpose(0, 1)
    given[of] = turned.requires_grad_() if of == "x" else turned
    x, weight, b, l, dy = given.values()
    y, _ = ops.scaled_linear(x, weight, b, l)
    assert_gradients((y, *torch.autograd.grad(y, (x, l), dy)), exact(*given.values()), torch.float32, 120)


def kept(call):
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t):
        y, _ = call()
    return y, shapes


def test_x_is_not_kept_and_only_what_is_wanted_is_computed():
    x, weight, b, l, dy = tensors((40, 17), 9, torch.float32)
    y, shapes = kept(lambda: ops.scaled_linear(x, weight, b, l))
    assert sorted(shapes) == sorted([(40, 9), (9, 17), (9,)])
    dx, dl = torch.autograd.grad(y, (x, l), dy)
    y, shapes = kept(lambda: ops.scaled_linear(x, weight, b, l.detach()))
    assert sorted(shapes) == sorted([(9, 17), (9,)])
    assert_close(torch.autograd.grad(y, x, dy)[0], dx.double(), 1e-6)
    y, _ = ops.scaled_linear(x.detach(), weight, b, l)
    assert torch.equal(torch.autograd.grad(y, l, dy)[0], dl)


@pytest.mark.parametrize("of", ["both", "x", "l"])
def test_gradients_of_gradients(of):
    x, weight, b, l, _ = tensors((4, 3), 5, torch.float64)
    x, l = (x if of != "l" else x.detach()), (l if of != "x" else l.detach())

    def call(x, l):
        return tuple(t for t in ops.scaled_linear(x, weight, b, l) if t.requires_grad)

    assert torch.autograd.gradcheck(call, (x, l))
    assert torch.autograd.gradgradcheck(call, (x, l))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype, bias):
    x, weight, b, l, dy = tensors((2, 3, 8), 6, dtype, torch.float32, bias)
    torch.library.opcheck(ops.scaled_linear, (x, weight, b, l))
    plain = F.linear(x, weight, b).detach()
    torch.library.opcheck(ops.scaled_linear_backward, (dy, plain, weight, l.detach(), True))
    torch.library.opcheck(ops.scaled_linear, (x, weight, b, l.detach().reshape(6, 1).requires_grad_()))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"expected x \[\*, d_in\].*, got \[2, 3\], \[5, 4\] and \[5\]"):
        ops.scaled_linear(torch.zeros(2, 3), torch.zeros(5, 4), None, torch.zeros(5))


# What (IA)3 makes of it ----------------------------------------------------------------------------------------------


def node(y):
    return y.grad_fn.name()


def test_the_layer_is_one_node_where_it_is_frozen():
    bound = Bound.make("ia3", {"position": "output"}, 6, 4, bias=True, dtype=torch.float32)
    x, weight, b = torch.randn(3, 6, requires_grad=True), torch.randn(4, 6), torch.randn(4)
    assert "ScaledLinear" in node(bound(x, weight=weight, bias=b))
    assert "ScaledColumns" in node(bound(x, y=F.linear(x, weight, b)))
    assert "ScaledColumns" in node(bound(x, weight=weight.clone().requires_grad_(), bias=b))
    assert "ScaledColumns" in node(bound(x, weight=weight, bias=b.clone().requires_grad_()))


def test_a_trained_bias_gets_its_gradient():
    bound = Bound.make("ia3", {"position": "output"}, 6, 4, bias=True, dtype=torch.float32)
    x, weight, b = torch.randn(3, 6), torch.randn(4, 6), torch.randn(4, requires_grad=True)
    l = bound.own[0].detach().flatten()
    (db,) = torch.autograd.grad(bound(x, weight=weight, bias=b), b, torch.ones(3, 4))
    torch.testing.assert_close(db, 3 * l)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_treats_it_as_a_linear_layer(dtype):
    bound = Bound.make("ia3", {"position": "output"}, 6, 4, bias=True, dtype=torch.float32)
    x, weight, b = torch.randn(3, 6, requires_grad=True), torch.randn(4, 6), torch.randn(4)
    with torch.autocast("cpu", dtype):
        y = bound(x, weight=weight, bias=b)
        expected = ops.scaled_columns(F.linear(x, weight, b), bound.own[0])
    assert "ScaledLinear" in node(y)
    assert y.dtype == expected.dtype == dtype
    found, wanted = (torch.autograd.grad(t, [x, bound.own[0]], torch.ones_like(t)) for t in (y, expected))
    for one, other in zip((y, *found), (expected, *wanted), strict=True):
        assert one.dtype == other.dtype
        assert_close(one, other.detach().double(), 2 * TYPES[dtype])


def test_a_meta_tensor_of_another_dtype_is_left_to_two_calls():
    """Torch refuses to be asked for autocast's state there."""
    config = veneer.IA3Config(target_modules=["0"], feedforward_modules=[])
    model = veneer.get_peft_model(nn.Sequential(nn.Linear(6, 4)), config).to("meta")
    assert "ScaledColumns" in node(model(torch.empty(3, 6, dtype=torch.float64, device="meta")))
