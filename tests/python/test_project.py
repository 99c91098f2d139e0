# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""veneer.project: the closest matrix of a family, held to closed forms where there is one and to what it finds elsewhere."""

import pytest
import torch
from torch import nn

import veneer
from core import CASES, REGISTRY, Bound
from veneer import AdditiveConfig, project

D = 12
FAMILIES = [
    pytest.param({"name": name, **options}, id=f"{name}-{i}")
    for name, row in CASES["matrices"].items()
    for i, options in enumerate(row["options"])
]
LINEAR = ["block_circulant", "block_diagonal", "dense", "diagonal", "hankel", "skew_circulant", "toeplitz"]


def member(matrix, d=D):
    """A random matrix of the family."""
    torch.manual_seed(2)
    bound = Bound.make("additive", {"matrix": matrix}, d, d)
    return bound.weight(torch.zeros(d, d, dtype=torch.float64)).detach()


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


@pytest.mark.parametrize("name", LINEAR)
def test_a_member_of_a_linear_family_is_found(name):
    target = member({"name": name})
    assert project(name, target).relative_error < 1e-10


@pytest.mark.parametrize("name", ["circulant", "kronecker", "lokr", "low_rank", "monarch", "low_displacement_rank"])
def test_a_member_of_a_family_of_products_is_found(name):
    assert project(name, member({"name": name}), max_iterations=2000).relative_error < 1e-4


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


def test_refusals():
    with pytest.raises(ValueError, match=r"\[project\] .*\[d_out, d_in\].*got"):
        project("toeplitz", torch.randn(3))
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
