# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The generic suite over methods: one row of cases.json drives every test here."""

import json

import pytest
import torch

from core import ACTIVATIONS, CASES, REGISTRY, Bound, formula, matrix_formula, ops, starts_at_base
from veneer import _core

METHODS = CASES["methods"]
ALL = [
    pytest.param(name, options, id=f"{name}-{json.dumps(options)}")
    for name, row in METHODS.items()
    for options in row["options"]
]
LINEAR = [case for case in ALL if METHODS[case.values[0]]["site"] == "linear"]


def make(name, options, d_in=12, d_out=8, **more):
    kind = METHODS[name]["site"]
    return Bound.make(name, options, d_in, d_in if kind == "hidden" else d_out, kind=kind, **more)


def values(name, options):
    return {**{o["name"]: o["default"] for o in REGISTRY["methods"][name]["options"]}, **options}


def call(name, bound, x, weight, bias, fused=True):
    """One forward as the host makes it."""
    if METHODS[name]["site"] == "hidden":
        return bound(x, y=x)
    if fused:
        return bound(x, weight=weight, bias=bias)
    inner = bound.input(x) if bound.traits["changes_input"] else x
    return bound(x, y=torch.nn.functional.linear(inner, weight, bias), weight=weight, bias=bias)


def inputs(dtype=torch.float64, n=5, d_in=12, d_out=8):
    return torch.randn(n, d_in, dtype=dtype), torch.randn(d_out, d_in, dtype=dtype), torch.randn(d_out, dtype=dtype)


def test_every_registered_method_has_a_row():
    assert sorted(METHODS) == sorted(REGISTRY["methods"])


@pytest.mark.parametrize(("name", "options"), ALL)
def test_forward_is_the_papers_formula(name, options):
    bound = make(name, options)
    x, w, b = inputs()
    row, given = METHODS[name], values(name, options)
    if row["site"] == "hidden":
        names = {"down_bias": 0.0, "up_bias": 0.0, "adapter_bias": 0.0, **bound.numpy()}
        if "matrix" in given:
            own = {key.removeprefix("adapter_"): value for key, value in bound.numpy().items()}
            names["M"] = matrix_formula(given["matrix"], own, 12, 12)
        expected = formula(
            row["forward"],
            x=x.numpy(),
            y=x.numpy(),
            act=ACTIVATIONS[given["activation"]],
            scale=given["scale"],
            **names,
        )
    else:
        names = bound.numpy()
        if name == "additive":
            names["s"], names["M"] = given["scale"], matrix_formula(given["matrix"], names, 12, 8)
        weight = formula(row["weight"], W=w.numpy(), b=b.numpy(), **given, **names)
        expected = x.numpy() @ weight.T + formula(row["bias"], W=w.numpy(), b=b.numpy(), **given, **names)
    torch.testing.assert_close(call(name, bound, x, w, b).detach(), torch.from_numpy(expected), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("name", "options"), LINEAR)
def test_called_base_fused_path_and_merged_weight_agree(name, options):
    bound = make(name, options)
    x, w, b = inputs()
    x.requires_grad_()
    for bias in (b, None):
        fused, called = call(name, bound, x, w, bias), call(name, bound, x, w, bias, fused=False)
        merged = torch.nn.functional.linear(x, bound.weight(w), None if bias is None else bound.bias(bias))
        upstream = torch.randn_like(fused)
        for other in (called, merged):
            torch.testing.assert_close(fused, other, rtol=1e-10, atol=1e-11)
        inner = [x] if options.get("decompose") else [x, *bound.own]  # a merged DoRA weight has its norm detached too
        for other in (called, merged):
            got = torch.autograd.grad(fused, inner, upstream, retain_graph=True)
            expected = torch.autograd.grad(other, inner, upstream, retain_graph=True)
            for p, q in zip(got, expected, strict=True):
                torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_start_is_the_base_bit_for_bit(name, options):
    if not starts_at_base(METHODS[name], options):
        pytest.skip("by definition")
    x, w, b = inputs(torch.float32)
    bound = make(name, options, dtype=torch.float32, fresh=True, weight=w)
    base = x if METHODS[name]["site"] == "hidden" else torch.nn.functional.linear(x, w, b)
    assert torch.equal(call(name, bound, x, w, b), base)
    if METHODS[name]["site"] == "linear":
        assert torch.equal(call(name, bound, x, w, b, fused=False), base)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_gradcheck(name, options):
    bound = make(name, options)
    x, w, b = inputs(n=3)
    if options.get("decompose"):
        check_detached_norm(bound, x, w, b)
        return
    assert torch.autograd.gradcheck(
        lambda x, *p: call(name, bound.with_params(p), x, w, b), (x.requires_grad_(), *bound.own)
    )


def check_detached_norm(bound, x, w, b):
    """DoRA stops the gradient at its norm: held to a composed reference with the same stop."""
    x.requires_grad_()
    a, up, m = bound.own
    total = w + up @ a
    reference = x @ ((m / total.detach().norm(dim=1))[:, None] * total).T + b
    ours = call("additive", bound, x, w, b)
    torch.testing.assert_close(ours, reference)
    upstream = torch.randn_like(ours)
    for p, q in zip(
        torch.autograd.grad(ours, [x, a, up, m], upstream),
        torch.autograd.grad(reference, [x, a, up, m], upstream),
        strict=True,
    ):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_opcheck(name, options):
    x, w, b = inputs(torch.float32)
    bound = make(name, options, dtype=torch.float32)
    x.requires_grad_()
    y, w, b = (x, None, None) if METHODS[name]["site"] == "hidden" else (None, w, b)
    arguments = (name, bound.plan, x, y, w, b, bound.params, None, _core.build_id())
    torch.library.opcheck(ops.forward, arguments)


@pytest.mark.parametrize(("name", "options"), ALL)
@pytest.mark.parametrize("adapter", [torch.float32, torch.bfloat16], ids=str)
def test_bfloat16_base(name, options, adapter):
    x, w, b = inputs(torch.bfloat16, n=64)
    bound = make(name, options).to(adapter)
    ours = call(name, bound, x, w, b)
    assert ours.dtype == torch.bfloat16
    exact = call(name, bound.to(torch.float64), x.double(), w.double(), b.double())
    base = (
        x.double()
        if METHODS[name]["site"] == "hidden"
        else torch.nn.functional.linear(x.double(), w.double(), b.double())
    )
    scale = max(exact.abs().max(), base.abs().max())
    assert (ours.double() - exact).abs().max() <= 2 * 2 * torch.finfo(torch.bfloat16).eps * scale


@pytest.mark.parametrize("name", METHODS)
def test_counts(name):
    for options, d_in, d_out, count in METHODS[name]["counts"]:
        assert sum(p.numel() for p in make(name, options, d_in, d_out).own) == count, (options, d_in, d_out)


@pytest.mark.parametrize("name", [name for name in METHODS if "refused" in METHODS[name]])
def test_refusals(name):
    for options, d_in, d_out, message in METHODS[name]["refused"]:
        with pytest.raises(ValueError, match=message):
            make(name, options, d_in, d_out)


@pytest.mark.parametrize(
    "options",
    [
        {"matrix": "low_rank"},
        {"matrix": "circulant"},
        {"matrix": "low_rank", "decompose": True},
        {"matrix": "low_rank", "decompose": True, "dora_dropout": "shared"},
    ],
    ids=json.dumps,
)
def test_dropout_repeats_by_seed_and_has_the_right_mean(options):
    x, w, b = inputs(n=4)
    bound = Bound.make("additive", {**options, "dropout": 0.5}, 12, 8)
    seed = torch.tensor([11])
    assert torch.equal(bound(x, weight=w, bias=b, seed=seed), bound(x, weight=w, bias=b, seed=seed))
    assert not torch.equal(bound(x, weight=w, bias=b, seed=seed), bound(x, weight=w, bias=b, seed=seed + 1))
    # The output is linear in the dropped input, so its mean over seeds is the output without dropout.
    samples = torch.stack([bound(x, weight=w, bias=b, seed=torch.tensor([s])).detach() for s in range(1000)])
    error = (samples.mean(0) - bound(x, weight=w, bias=b)).abs()
    assert (error <= 5.0 * samples.std(0) / 1000**0.5 + 1e-12).all()


def test_dora_norm_is_float32_under_autocast():
    """Its products would be 16-bit otherwise, and their sum cancels where W and the update do."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.mm.default:
                self.seen.append((tuple(args[0].shape), args[0].dtype))
            return function(*args, **(kwargs or {}))

    x, w, b = inputs(torch.float32)
    # A rank whose norms torch's products serve, and dropout: not fused.
    options = {"matrix": {"name": "low_rank", "rank": 70}, "decompose": True, "dropout": 0.1}
    bound = Bound.make("additive", options, 12, 8).to(torch.float32)
    with Recorder() as recorder, torch.autocast("cpu", torch.bfloat16):
        y = bound(x, weight=w, bias=b)
    assert y.dtype == torch.bfloat16
    assert dict(recorder.seen)[8, 12] == torch.float32  # W A^T
    assert dict(recorder.seen)[5, 12] == torch.bfloat16  # x A^T


def test_dropout_gradient_uses_the_forward_mask():
    x, w, b = inputs(n=3)
    bound = Bound.make("additive", {"matrix": {"name": "low_rank", "rank": 2}, "dropout": 0.4}, 12, 8)
    seed = torch.tensor([5])
    function = lambda x, *p: bound.with_params(p)(x, weight=w, bias=b, seed=seed)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *bound.own))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_seeded_dropout(dtype):
    x = torch.randn(37, 1001).to(dtype)
    seed, p = torch.tensor([123456789]), 0.25
    y = ops.seeded_dropout(x, seed, p)
    kept = y != 0
    assert abs(kept.double().mean() - 0.75) < 0.01
    torch.testing.assert_close(y[kept], (x.double() / 0.75).to(dtype)[kept], rtol=torch.finfo(dtype).eps * 2, atol=0)
    # The mask goes by logical position: strides and thread counts do not change it.
    assert torch.equal(ops.seeded_dropout(x.t().contiguous().t(), seed, p), y)
    torch.set_num_threads(4)
    assert torch.equal(ops.seeded_dropout(x, seed, p), y)
    torch.library.opcheck(ops.seeded_dropout, (x.requires_grad_(), seed, p))


def test_seeded_dropout_refuses_bad_arguments():
    x = torch.randn(3)
    with pytest.raises(ValueError, match=r"p must be in 0\.\.1"):
        ops.seeded_dropout(x, torch.tensor([1]), 1.0)
    with pytest.raises(ValueError, match="one int64 number"):
        ops.seeded_dropout(x, torch.tensor([1.0]), 0.5)
    with pytest.raises(ValueError, match="expected a floating-point type"):
        ops.seeded_dropout(x.long(), torch.tensor([1]), 0.5)


def test_several_threads_share_the_plan_cache():
    from concurrent.futures import ThreadPoolExecutor

    x, w, b = inputs()
    bounds = [Bound.make("additive", {"matrix": {"name": "low_rank", "rank": r}}, 12, 8) for r in range(1, 9)]
    expected = [bound(x, weight=w, bias=b) for bound in bounds]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: bounds[i % 8](x, weight=w, bias=b), range(400)))
    assert all(torch.equal(y, expected[i % 8]) for i, y in enumerate(got))


def test_dora_refuses_a_hidden_site():
    with pytest.raises(ValueError, match="needs the base layer's dense weight"):
        Bound.make("additive", {"decompose": True}, 8, 8, kind="hidden")


def test_bottleneck_is_not_mergeable():
    bound = make("bottleneck", {})
    with pytest.raises(ValueError, match="cannot be merged: its nonlinearity"):
        bound.weight(torch.zeros(12, 12, dtype=torch.float64))
