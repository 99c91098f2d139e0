# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""veneer.project: the closest matrix of a family, held to closed forms where there is one and to what it finds elsewhere."""

import contextlib

import pytest
import torch
from torch import nn

import veneer
from core import CASES, REGISTRY, Bound
from veneer import AdditiveConfig, LoraConfig, VeraConfig, project
from veneer.project import _Family

D = 12
SIZES = [(12, 12), (8, 12)]  # d_out, d_in
FAMILIES = [
    pytest.param({"name": name, **options}, id=f"{name}-{i}")
    for name, row in CASES["matrices"].items()
    for i, options in enumerate(row["options"])
]
# Products whose members are found from a few random starts; of the others some have other minima in the way.
FOUND = [
    *("butterfly", "circulant", "cp", "kronecker", "lokr", "low_rank", "monarch", "phm", "product", "sum"),
    *("tensor_train", "vera"),
]


def zeros(d_out, d_in):
    return torch.zeros(d_out, d_in, dtype=torch.float64)


def bound_to(matrix, d_out, d_in):
    """The family at a size, with random parameters; what the key of vera draws stays."""
    torch.manual_seed(3)
    return Bound.make("additive", {"matrix": matrix}, d_in, d_out)


def member(bound, d_out, d_in):
    """A random matrix of the family."""
    return bound.weight(zeros(d_out, d_in)).detach()


def accepted():
    """Every row x size that the family does not refuse."""
    for matrix in FAMILIES:
        for d_out, d_in in SIZES:
            with contextlib.suppress(ValueError):
                bound_to(*matrix.values, d_out, d_in)
                yield pytest.param(*matrix.values, d_out, d_in, id=f"{matrix.id}-{d_out}x{d_in}")


def least_squares_error(bound, target):
    """Of a family that is linear in its parameters, from the matrix of each parameter alone."""
    sizes = [p.numel() for p in bound.own]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = zip(unit.split(sizes), bound.own, strict=True)
        params = [part.view_as(p).requires_grad_() for part, p in parts]
        columns.append(bound.with_params(params).weight(torch.zeros_like(target)).detach().flatten())
    jacobian = torch.stack(columns, dim=1)
    return (target.flatten() - jacobian @ (torch.linalg.pinv(jacobian) @ target.flatten())).norm().item()


def along_diagonals(target, key):
    """Every entry replaced by the mean of those with the same key(i, j): the closest matrix that is constant there."""
    d_out, d_in = target.shape
    groups = {}
    for i in range(d_out):
        for j in range(d_in):
            groups.setdefault(key(i, j), []).append((i, j))
    out = torch.zeros_like(target)
    for places in groups.values():
        rows, columns = zip(*places, strict=True)
        out[rows, columns] = target[rows, columns].mean()
    return out


@pytest.mark.parametrize("matrix", FAMILIES)
def test_errors_are_those_of_the_matrix_returned(matrix):
    torch.manual_seed(1)
    target = torch.randn(D, D, dtype=torch.float64)
    found = project(matrix, target, max_iterations=60, restarts=1)
    assert found.error == pytest.approx((target - found.dense).norm().item())
    assert found.relative_error == pytest.approx(found.error / target.norm().item())
    assert found.error <= target.norm() * (1 + 1e-9)
    assert found.parameters == sum(t.numel() for t in found.tensors.values())
    assert found.dense.dtype == target.dtype


@pytest.mark.parametrize(("matrix", "d_out", "d_in"), list(accepted()))
def test_members_and_least_squares_optima_are_found(matrix, d_out, d_in):
    bound = bound_to(matrix, d_out, d_in)
    target = member(bound, d_out, d_in)
    if _Family(matrix, target).linear:
        found = project(matrix, target)
        assert found.relative_error < 1e-10
        assert found.converged
        target = torch.randn_like(target)
        best = least_squares_error(bound, target)
        assert project(matrix, target).error == pytest.approx(best, rel=1e-9, abs=1e-9)
    elif matrix["name"] in FOUND:
        assert project(matrix, target, restarts=10).relative_error < 1e-5
    else:
        assert project(matrix, target, max_iterations=200).relative_error < 0.4


def test_what_is_not_affine_is_fitted_too():
    matrix = {"name": "low_displacement_rank", "operator": "vandermonde"}  # powers of trained nodes
    target = member(bound_to(matrix, D, D), D, D)
    family = _Family(matrix, target)
    assert 0 < sum(len(index) for index, _ in family.blocks) < family.count
    assert project(matrix, target).relative_error < 1e-6


def test_closed_forms():
    torch.manual_seed(1)
    target = torch.randn(D, D, dtype=torch.float64)
    for matrix, key in (
        ({"name": "circulant", "form": "single"}, lambda i, j: (i - j) % D),
        ("toeplitz", lambda i, j: i - j),
        ("hankel", lambda i, j: i + j),
        ({"name": "symmetric_toeplitz", "form": "single"}, lambda i, j: abs(i - j)),
    ):
        torch.testing.assert_close(project(matrix, target).dense, along_diagonals(target, key), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(project("diagonal", target).dense, torch.diag(target.diagonal()))


@pytest.mark.parametrize("r", [1, 3])
def test_low_rank_reaches_the_eckart_young_bound(r):
    torch.manual_seed(1)
    target = torch.randn(9, 14, dtype=torch.float64)
    best = torch.linalg.svdvals(target)[r:].norm().item()
    assert project({"name": "low_rank", "rank": r}, target, max_iterations=2000).error == pytest.approx(best, rel=1e-4)


def test_kronecker_reaches_van_loan_s_bound():
    torch.manual_seed(1)
    target = torch.randn(20, 12, dtype=torch.float64)  # [4, 3] (x) [5, 4]
    rearranged = target.view(4, 5, 3, 4).permute(0, 2, 1, 3).reshape(12, 20)
    best = torch.linalg.svdvals(rearranged)[1:].norm().item()
    found = project({"name": "kronecker", "form": "chain"}, target, max_iterations=2000)
    assert found.error == pytest.approx(best, rel=1e-4)


def test_starts_an_adapter():
    torch.manual_seed(1)
    target = torch.randn(D, D)
    config = AdditiveConfig(matrix={"name": "circulant", "form": "single"}, target_modules=["0"])
    model = veneer.get_peft_model(nn.Sequential(nn.Linear(D, D)), config)
    found = project(config.matrix, target)
    found.load_into(model, "0")
    x = torch.randn(3, D)
    base = model.get_base_model()[0].base_layer
    torch.testing.assert_close(model(x), base(x) + x @ found.dense.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected the path of an adapted layer, got 1; there: 0"):
        found.load_into(model, "1")
    other = veneer.get_peft_model(
        nn.Sequential(nn.Linear(D, D)), AdditiveConfig(matrix="toeplitz", target_modules=["0"])
    )
    with pytest.raises(ValueError, match="would not add the projected matrix"):
        found.load_into(other, "0")
    with pytest.raises(ValueError, match="no adapter `defualt` at 0; there: default; did you mean"):
        found.load_into(model, "0", "defualt")
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"merged into 0: unmerge_adapter\(\) first"):
        found.load_into(model, "0")


@pytest.mark.parametrize("change", [{"lora_alpha": 2}, {"use_dora": True}, {"r": 3}, {"use_rslora": True}], ids=str)
def test_starts_a_lora_of_the_same_scale_only(change):
    target = torch.randn(8, 5)
    found = project({"name": "low_rank", "rank": 2, "alpha": 8.0}, target)
    settings = {"r": 2, "lora_alpha": 8, "target_modules": ["0"]}
    model = veneer.get_peft_model(nn.Sequential(nn.Linear(5, 8)), LoraConfig(**settings))
    layer = model.get_base_model()[0]
    found.load_into(layer)
    torch.testing.assert_close(layer.weight - layer.base_layer.weight, found.dense, rtol=1e-4, atol=1e-5)
    other = veneer.get_peft_model(nn.Sequential(nn.Linear(5, 8)), LoraConfig(**settings | change))
    before = {name: p.clone() for name, p in other.named_parameters()}
    with pytest.raises(ValueError, match="would not add the projected matrix"):
        found.load_into(other, "0")
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


def test_frozen_shared_tensors_stay_as_the_key_draws_them():
    found = project({"name": "vera", "rank": 4, "projection_prng_key": 3}, torch.randn(6, 6))
    assert sorted(found.tensors) == ["vera_lambda_b", "vera_lambda_d"]
    for key, sizes in ((3, (6, 6)), (4, (6, 6)), (3, (9, 9))):
        layers = nn.Sequential(nn.Linear(6, 6), nn.Linear(*sizes))  # a larger layer has a larger pair drawn
        config = VeraConfig(r=4, projection_prng_key=key, target_modules=["0", "1"])
        model = veneer.get_peft_model(layers, config)
        if (key, sizes) == (3, (6, 6)):
            found.load_into(model, "0")
            layer = model.get_base_model()[0]
            torch.testing.assert_close(layer.weight - layer.base_layer.weight, found.dense, rtol=1e-4, atol=1e-5)
        else:
            with pytest.raises(ValueError, match="same shared tensors"):
                found.load_into(model, "0")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_is_in_the_dtype_of_the_target_whatever_the_mode(dtype):
    torch.manual_seed(1)
    target = torch.randn(6, 8).to(dtype)
    expected = project({"name": "low_rank", "rank": 2}, target, restarts=1)
    assert {t.dtype for t in expected.tensors.values()} == {expected.dense.dtype} == {dtype}
    best = torch.linalg.svdvals(target.double())[2:].norm().item()
    assert expected.error == pytest.approx(best, rel=4 * torch.finfo(dtype).eps)
    for mode in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with mode:
            found = project({"name": "low_rank", "rank": 2}, target.clone().requires_grad_(), restarts=1)
        assert torch.equal(found.dense, expected.dense)
        assert not found.dense.requires_grad


@pytest.mark.parametrize("matrix", ["toeplitz", "low_rank", "circulant"])
def test_zero_and_extreme_targets(matrix):
    zero = project(matrix, zeros(6, 6))
    assert (zero.error, zero.relative_error) == (0.0, 0.0)
    target = torch.randn(6, 6, dtype=torch.float64)
    usual = project(matrix, target).relative_error
    for factor in (1e-30, 1e30):
        assert project(matrix, factor * target).relative_error == pytest.approx(usual, rel=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match=r"\[project\] .*\[d_out, d_in\].*got"):
        project("toeplitz", torch.randn(3))
    with pytest.raises(ValueError, match=r"got shape \[0, 3\]"):
        project("toeplitz", torch.randn(0, 3))
    with pytest.raises(ValueError, match=r"floating-point dtype, got torch.int64"):
        project("toeplitz", torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="restarts at least 1"):
        project("toeplitz", torch.randn(3, 3), restarts=0)
    with pytest.raises(ValueError, match="finite"):
        project("toeplitz", torch.full((3, 3), torch.nan))
    with pytest.raises(ValueError, match="no common divisor"):
        project("circulant", torch.randn(5, 8))
    with pytest.raises(ValueError, match="did you mean `toeplitz`"):
        project("toeplits", torch.randn(3, 3))


def test_is_repeatable_and_leaves_the_generator_alone():
    target = torch.randn(D, D)
    state = torch.get_rng_state()
    first, second = project("lokr", target, max_iterations=50), project("lokr", target, max_iterations=50)
    assert torch.equal(first.dense, second.dense)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(REGISTRY["matrices"]) == set(CASES["matrices"])  # all families were tried above
