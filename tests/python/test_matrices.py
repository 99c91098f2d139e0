# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The generic suite over structured matrices: one row of cases.json drives every test here."""

import json

import pytest
import torch

from core import CASES, REGISTRY, Bound, matrix_formula, ops, starts_at_base
from veneer import _core

MATRICES = CASES["matrices"]


def refused(name, options, d_in, d_out):
    try:
        Bound.make("additive", {"matrix": {"name": name, **options}}, d_in, d_out)
    except ValueError:
        return True
    return False


def accepted():
    """Every row x options x size the family accepts; test_refusals holds the rows to their refusals."""
    for name, row in MATRICES.items():
        for options in row["options"]:
            for d_in, d_out in CASES["sizes"]:
                if not refused(name, options, d_in, d_out):
                    yield pytest.param(name, options, d_in, d_out, id=f"{name}-{json.dumps(options)}-{d_in}x{d_out}")


EACH = list(accepted())


def make(name, options, d_in, d_out, **more):
    return Bound.make("additive", {"matrix": {"name": name, **options}}, d_in, d_out, **more)


def update(bound, d_in, d_out, x):
    """The update alone, s * x M^T: forward over a base output of zeros."""
    return bound(x, y=torch.zeros(*x.shape[:-1], d_out, dtype=x.dtype), weight=torch.zeros(d_out, d_in, dtype=x.dtype))


def dense(bound, d_in, d_out, dtype=torch.float64):
    return bound.weight(torch.zeros(d_out, d_in, dtype=dtype))


def test_every_registered_matrix_has_a_row():
    assert sorted(MATRICES) == sorted(REGISTRY["matrices"])


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_dense_is_the_papers_formula(name, options, d_in, d_out):
    bound = make(name, options, d_in, d_out)
    expected = torch.from_numpy(matrix_formula({"name": name, **options}, bound.numpy(), d_in, d_out))
    torch.testing.assert_close(dense(bound, d_in, d_out).detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_apply_equals_dense_in_values_and_gradients(name, options, d_in, d_out):
    bound = make(name, options, d_in, d_out)
    x = torch.randn(3, 2, d_in, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, d_out, dtype=torch.float64)
    fast = update(bound, d_in, d_out, x)
    reference = x @ dense(bound, d_in, d_out).T
    torch.testing.assert_close(fast, reference, rtol=1e-11, atol=1e-12)
    got = torch.autograd.grad(fast, [x, *bound.own], upstream)
    expected = torch.autograd.grad(reference, [x, *bound.own], upstream)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_shapes_strides_and_empty_batches(name, options, d_in, d_out):
    bound = make(name, options, d_in, d_out)
    w = dense(bound, d_in, d_out)
    for x in (
        torch.randn(d_in, dtype=torch.float64),
        torch.randn(0, d_in, dtype=torch.float64),
        torch.randn(2, 0, d_in, dtype=torch.float64),
        torch.randn(d_in, 3, 2, dtype=torch.float64).permute(1, 2, 0),
        torch.randn(3, 2 * d_in, dtype=torch.float64)[:, ::2],
        torch.randn(3, 1, dtype=torch.float64).expand(3, d_in),
    ):
        y = update(bound, d_in, d_out, x)
        assert y.shape == (*x.shape[:-1], d_out)
        torch.testing.assert_close(y, x @ w.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_error_is_at_most_twice_torchs_own(name, options, d_in, d_out, dtype):
    rounded = make(name, options, d_in, d_out).to(dtype)
    x = torch.randn(64, d_in).to(dtype)
    reference = x.double() @ dense(rounded.to(torch.float64), d_in, d_out).detach().T
    ours = (update(rounded, d_in, d_out, x).double() - reference).abs().max()
    # torch's own: the dense matrix rounded to the dtype, one product. The floor covers exact cases (size one).
    own = ((x @ dense(rounded.to(torch.float64), d_in, d_out).to(dtype).T).double() - reference).abs().max()
    assert ours <= 2 * own + 2 * torch.finfo(dtype).eps * reference.abs().max()


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_start_is_the_base_bit_for_bit(name, options, d_in, d_out):
    if not starts_at_base(MATRICES[name], options):
        pytest.skip("by definition")
    weight, bias = torch.randn(d_out, d_in), torch.randn(d_out)
    x = torch.randn(5, d_in)
    base = torch.nn.functional.linear(x, weight, bias)
    for decompose in (False, True):
        bound = Bound.make(
            "additive",
            {"matrix": {"name": name, **options}, "decompose": decompose},
            d_in,
            d_out,
            dtype=torch.float32,
            fresh=True,
            weight=weight,
        )
        assert torch.equal(bound(x, weight=weight, bias=bias), base)
        assert torch.equal(bound(x, y=base, weight=weight, bias=bias), base)


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_random_start_is_not_zero(name, options, d_in, d_out):
    bound = Bound.make("additive", {"matrix": {"name": name, **options}, "start": "random"}, d_in, d_out, fresh=True)
    assert dense(bound, d_in, d_out).abs().max() > 0


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_row_norms_under_dora(name, options, d_in, d_out):
    weight = torch.randn(d_out, d_in, dtype=torch.float64)
    bound = Bound.make("additive", {"matrix": {"name": name, **options}, "decompose": True}, d_in, d_out)
    named = dict(zip(bound.names, bound.params, strict=True))
    own = [p for n, p in named.items() if p.requires_grad and n != "magnitude"]
    total = weight + dense(make(name, options, d_in, d_out).with_params(own), d_in, d_out)
    expected = named["magnitude"][:, None] * total / total.norm(dim=1, keepdim=True)
    torch.testing.assert_close(bound.weight(weight), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "options", "d_in", "d_out"), EACH)
def test_inside_a_bottleneck(name, options, d_in, d_out):
    del d_out
    matrix = {"name": name, **options}
    try:
        bound = Bound.make(
            "bottleneck", {"size": max(1, d_in // 2), "down": matrix, "up": matrix}, d_in, d_in, kind="hidden"
        )
    except ValueError as error:
        assert "divi" in str(error)  # inner sizes without a common divisor  # noqa: PT017
        return
    x = torch.randn(3, d_in, dtype=torch.float64, requires_grad=True)
    bound(x, y=x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bound.own)


@pytest.mark.parametrize("name", MATRICES)
def test_gradcheck(name):
    for options in MATRICES[name]["options"]:
        bound = make(name, options, 12, 8)
        x = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *p, b=bound: update(b.with_params(p), 12, 8, x), (x, *bound.own))


@pytest.mark.parametrize("name", MATRICES)
def test_opcheck(name):
    for options in MATRICES[name]["options"]:
        bound = make(name, {**options}, 12, 8, dtype=torch.float32)
        x = torch.randn(3, 12, requires_grad=True)
        arguments = ("additive", bound.plan, x, None, torch.randn(8, 12), None, bound.params, None, _core.build_id())
        torch.library.opcheck(ops.forward, arguments)


@pytest.mark.parametrize("name", MATRICES)
def test_counts(name):
    for options, d_in, d_out, count in MATRICES[name]["counts"]:
        assert sum(p.numel() for p in make(name, options, d_in, d_out).own) == count, (options, d_in, d_out)


@pytest.mark.parametrize("name", [name for name in MATRICES if "refused" in MATRICES[name]])
def test_refusals(name):
    for options, d_in, d_out, message in MATRICES[name]["refused"]:
        with pytest.raises(ValueError, match=message):
            make(name, options, d_in, d_out)
