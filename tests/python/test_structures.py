# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a structured matrix one: properties of the dense matrices that do not know how they are computed."""

import json

import pytest
import torch

from core import Bound
from veneer import _core


def dense(name, d_in=12, d_out=12, **options):
    """A random matrix of a family, float64, its own scale included."""
    torch.manual_seed(3)
    bound = Bound.make("additive", {"matrix": {"name": name, **options}}, d_in, d_out)
    return bound.weight(torch.zeros(d_out, d_in, dtype=torch.float64)).detach()


def rank(m):
    """Numerical rank."""
    values = torch.linalg.svdvals(m)
    return int((values > 1e-9 * values[0]).sum())


def shift(n, corner):
    """The down-shift Z with `corner` at its upper right."""
    z = torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    z[0, -1] = corner
    return z


SIZES = [(7, 7), (12, 12), (15, 15), (5, 8), (8, 5)]


@pytest.mark.parametrize("n", [7, 12, 15])
def test_circulant_columns_are_shifted_ones(n):
    m, skew = dense("circulant", n, n), dense("skew_circulant", n, n)
    torch.testing.assert_close(m[:, 1:], shift(n, 1.0) @ m[:, :-1])
    torch.testing.assert_close(skew[:, 1:], shift(n, -1.0) @ skew[:, :-1])


def test_c3a_s_blocks_are_circulant_by_rows():
    m = dense("block_circulant", 12, 8)  # blocks of 4
    for i in range(2):
        for j in range(3):
            block = m[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            torch.testing.assert_close(block[1:], block[:-1].roll(1, 1))


@pytest.mark.parametrize(("d_in", "d_out"), SIZES)
def test_toeplitz_and_hankel_diagonals_are_constant(d_in, d_out):
    toeplitz, hankel = dense("toeplitz", d_in, d_out), dense("hankel", d_in, d_out)
    symmetric = dense("symmetric_toeplitz", d_in, d_out, form="single")
    torch.testing.assert_close(toeplitz[1:, 1:], toeplitz[:-1, :-1])
    torch.testing.assert_close(symmetric[1:, 1:], symmetric[:-1, :-1])
    torch.testing.assert_close(hankel[1:, :-1], hankel[:-1, 1:])
    n = min(d_in, d_out)
    torch.testing.assert_close(symmetric[:n, :n], symmetric[:n, :n].T)


@pytest.mark.parametrize("n", [7, 12, 15])
@pytest.mark.parametrize("r", [1, 2, 3])
def test_displacement_ranks(n, r):
    family = "low_displacement_rank"
    surm = dense(family, n, n, rank=r)
    assert rank(shift(n, 1.0) @ surm - surm @ shift(n, -1.0)) == r
    toeplitz = dense(family, n, n, rank=r, operator="toeplitz")
    assert rank(shift(n, 1.0) @ toeplitz - toeplitz @ shift(n, -1.0)) == r
    hankel = dense(family, n, n, rank=r, operator="hankel").flip(0)
    assert rank(shift(n, 1.0) @ hankel - hankel @ shift(n, -1.0)) == r


@pytest.mark.parametrize("r", [1, 2])
def test_trained_operators_have_the_displacement_rank_they_state(r):
    torch.manual_seed(3)
    n = 9
    for operator in ("vandermonde", "subdiagonal"):
        bound = Bound.make(
            "additive", {"matrix": {"name": "low_displacement_rank", "rank": r, "operator": operator}}, n, n
        )
        p = dict(zip(bound.names, bound.params, strict=True))
        m = bound.weight(torch.zeros(n, n, dtype=torch.float64)).detach()
        if operator == "vandermonde":
            left, right = torch.diag(p["ldr_d"].detach()), shift(n, 0.0)
        else:
            left, right = torch.diag(p["ldr_a"].detach(), -1), torch.diag(p["ldr_t"].detach(), -1)
        assert rank(m - left @ m @ right.T) == r


def test_a_product_of_symmetric_toeplitz_has_displacement_rank_at_most_four():
    m = dense("symmetric_toeplitz", 15, 15)
    assert rank(shift(15, 0.0) @ m - m @ shift(15, 0.0)) <= 4
    assert rank(shift(15, 0.0) @ torch.randn(15, 15, dtype=torch.float64)) > 4


@pytest.mark.parametrize("name", ["kronecker", "lokr"])
def test_a_rearranged_kronecker_product_has_rank_one(name):
    options = {"form": "chain"} if name == "kronecker" else {}
    m = dense(name, 12, 20, **options)  # [20, 12] = [4, 3] (x) [5, 4], split as square as can be
    rearranged = m.view(4, 5, 3, 4).permute(0, 2, 1, 3).reshape(12, 20)
    assert rank(rearranged) == 1
    assert rank(m) > 1


def test_compacter_s_terms_add_up_to_rank_n():
    m = dense("phm", 12, 8, n=4, rank=0).T  # [12, 8], sum of four [4, 4] (x) [3, 2]
    assert rank(m.reshape(4, 3, 4, 2).permute(0, 2, 1, 3).reshape(16, 6)) == 4


@pytest.mark.parametrize("r", [1, 2, 3])
def test_unfoldings_of_a_tensor_train_have_its_rank(r):
    m = dense("tensor_train", 24, 72, rank=r).T.reshape(-1)  # modes [4, 6, 12, 6]
    left = 1
    for mode in (4, 6, 12):
        left *= mode
        assert rank(m.view(left, -1)) == min(r, left, m.numel() // left)


def test_monarch_s_rank_is_that_of_its_blocks():
    m = dense("monarch", 24, 24, blocks=3, rank=2)
    assert rank(m) == 6
    # Each of the 3 x 3 blocks that R's and L's blocks meet in has rank 2 / 3, rounded up.
    for i in range(3):
        for j in range(3):
            assert rank(m[i::3, 8 * j : 8 * j + 8]) <= 1


def test_block_diagonal_and_diagonal_are_zero_elsewhere():
    m = dense("block_diagonal", 12, 8, blocks=4)
    inside = torch.block_diag(*[torch.ones(2, 3)] * 4).bool()
    assert m[inside].ne(0).all()
    assert m[~inside].eq(0).all()
    z = dense("diagonal", 12, 8)
    assert z.diagonal().ne(0).all()
    assert z.count_nonzero() == 8


def test_a_butterfly_starts_as_a_rotation_of_what_it_keeps():
    bound = Bound.make("additive", {"matrix": "butterfly", "start": "random"}, 16, 16, fresh=True)
    m = bound.weight(torch.zeros(16, 16, dtype=torch.float64)).detach()
    torch.testing.assert_close(m @ m.T, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-6)  # drawn in float32


def test_lorta_shares_its_factors_between_layers_and_roles():
    """The stacked updates of two layers and three projections, [6, 12, 12], have CP rank 2: each unfolding has rank 2."""
    torch.manual_seed(3)
    options = {"name": "cp", "rank": 2, "heads": 3}
    stacked, params = [], None
    for layer in range(2):
        for role in "qkv":
            site = {**options, "layer": layer, "role": role}
            bound = Bound.make("additive", {"matrix": site}, 12, 12)
            wide = Bound.make("additive", {"matrix": {**options, "layer": 1, "role": role}}, 12, 12)
            params = params or wide.params  # sized for both layers
            bound.params = params
            stacked.append(bound.weight(torch.zeros(12, 12, dtype=torch.float64)).detach())
    m = torch.stack(stacked)
    assert rank(m.view(6, -1)) == 2
    assert rank(m.permute(2, 0, 1).reshape(12, 72)) == 2


def test_a_circulant_that_does_not_fit_names_the_layer():
    site = json.dumps({"d_in": 5, "d_out": 8, "path": "encoder.0.query"})
    with pytest.raises(ValueError, match=r"at encoder\.0\.query"):
        _core.bind("additive", ['{"matrix": "circulant"}'], [site])
