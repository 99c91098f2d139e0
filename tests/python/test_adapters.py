# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Several adapters on one model."""

import copy

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble, trained
from models import MODELS
from rows import EACH_ROW, ROWS, adapt

from veneer import BottleneckConfig, IA3Config, PeftModel, get_peft_model

MLP, BERT = MODELS["mlp"], MODELS["bert"]


def linear(weight_model, adapted, name):
    """The matrix that a (bias-free part of an) adapted linear layer computes."""
    layer = dict(adapted.get_base_model().named_modules())[name]
    d_in = layer.in_features
    with torch.no_grad():
        zero = layer(torch.zeros(1, d_in))
        return layer(torch.eye(d_in)) - zero


def test_additive_adapters_sum():
    rows = [ROWS["lora"], ROWS["circulant"], ROWS["vera"], ROWS["dense"]]
    adapted = scramble(adapt(MLP, rows[0]))
    for row in rows[1:]:
        adapted.add_adapter(row.name, row.make(MLP))
        adapted.set_adapter(row.name)
        scramble(adapted)
    names = ["default", *(row.name for row in rows[1:])]
    base = linear(MLP, get_peft_model(MLP.build(), rows[0].make(MLP)), "fourth")
    total = base.clone()
    for name in names:
        adapted.set_adapter(name)
        total += linear(MLP, adapted, "fourth") - base
    adapted.set_adapter(names)
    assert adapted.active_adapters == names
    torch.testing.assert_close(linear(MLP, adapted, "fourth"), total, rtol=1e-5, atol=1e-5)
    assert set(trained(adapted)) == {n for n, _ in adapted.named_parameters() if any(f".{name}" in n for name in names)}
    assert all(g is not None and g.abs().max() > 0 for g in gradients(adapted, loss_of(MLP.run(adapted))).values())
    expected = MLP.run(adapted)
    adapted.merge_adapter()
    torch.testing.assert_close(MLP.run(adapted), expected, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    assert torch.equal(MLP.run(adapted), expected)
    # A part of them, whatever is active.
    adapted.merge_adapter(["default", "vera"])
    adapted.unmerge_adapter()
    adapted.set_adapter(["default", "vera"])
    expected = MLP.run(adapted)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(MLP.run(merged), expected, rtol=1e-5, atol=1e-5)


def test_scalings_multiply():
    row = ROWS["ia3"]
    adapted = scramble(adapt(MLP, row))
    adapted.add_adapter("second", row.make(MLP))
    adapted.set_adapter("second")
    scramble(adapted, seed=6)
    base = linear(MLP, adapt(MLP, row), "first"), linear(MLP, adapt(MLP, row), "third")
    for name, at, dim in (("first", 0, 0), ("third", 1, 1)):  # an output and an input scaling; rows here are inputs
        factors = []
        for adapter in ("default", "second"):
            adapted.set_adapter(adapter)
            factors.append(linear(MLP, adapted, name) / base[at])
        adapted.set_adapter(["default", "second"])
        torch.testing.assert_close(linear(MLP, adapted, name), base[at] * factors[0] * factors[1], rtol=1e-4, atol=1e-5)
        assert (factors[0] - factors[0].select(dim, 0).unsqueeze(dim)).abs().max() < 1e-3
    expected = MLP.run(adapted)
    adapted.merge_adapter()
    torch.testing.assert_close(MLP.run(adapted), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [("lora", "ia3"), ("lora", "dora"), ("dora", "dora_circulant"), ("ia3", "dora")]
)
def test_what_cannot_act_together_is_refused_with_the_reason(first, second):
    adapted = scramble(adapt(BERT, ROWS[first], target_modules=["query"]))
    adapted.add_adapter("second", ROWS[second].make(BERT, target_modules=["query"]))
    expected = BERT.run(adapted)
    pattern = r"cannot act together at bert\.encoder\.layer\.0\.attention\.self\.query: default \(\w+, \w+\), second \(\w+, \w+\)"
    with pytest.raises(ValueError, match=pattern):
        adapted.set_adapter(["default", "second"])
    assert adapted.active_adapters == ["default"]
    assert torch.equal(BERT.run(adapted), expected)
    for merge in (adapted.merge_adapter, lambda names: adapted.merge_and_unload(adapter_names=names)):
        with pytest.raises(ValueError, match=pattern):
            merge(["default", "second"])
    assert torch.equal(BERT.run(adapted), expected)


def test_different_methods_on_different_layers_act_together():
    adapted = scramble(adapt(BERT, ROWS["lora"], target_modules=["query"]))
    adapted.add_adapter("ia3", IA3Config(target_modules=["key"], feedforward_modules=[]))
    adapted.add_adapter("bottleneck", BottleneckConfig(placement="pfeiffer", reduction_factor=3))
    adapted.set_adapter(["default", "ia3", "bottleneck"])
    scramble(adapted)
    assert all(g.abs().max() > 0 for g in gradients(adapted, loss_of(BERT.run(adapted))).values())
    with pytest.raises(ValueError, match=r"bottleneck .*cannot be merged"):
        adapted.merge_adapter()
    adapted.set_adapter(["default", "ia3"])
    expected = BERT.run(adapted)
    adapted.merge_adapter()
    torch.testing.assert_close(BERT.run(adapted), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", EACH_ROW)
def test_add_set_delete(row):
    model = BERT
    adapted = scramble(adapt(model, row))
    first = model.run(adapted)
    state = set(adapted.state_dict())
    adapted.add_adapter("second", row.make(model))
    assert torch.equal(model.run(adapted), first)  # added, not active
    adapted.set_adapter("second")
    assert adapted.active_adapter == "second"
    assert torch.equal(model.run(adapted), model.run(model.build()))
    assert all("second" in name for name in trained(adapted))
    scramble(adapted, seed=8)
    second = model.run(adapted)
    adapted.set_adapter("default")
    assert all("default" in name for name in trained(adapted))
    assert torch.equal(model.run(adapted), first)
    adapted.set_adapter("second", inference_mode=True)
    assert not trained(adapted)
    assert torch.equal(model.run(adapted), second)
    adapted.delete_adapter("second")
    assert adapted.active_adapters == []
    assert torch.equal(model.run(adapted), model.run(model.build()))
    assert set(adapted.state_dict()) == state
    adapted.set_adapter("default")
    assert torch.equal(model.run(adapted), first)
    adapted.delete_adapter("default")
    assert {type(m) for m in adapted.get_base_model().modules()} == {type(m) for m in model.build().modules()}
    adapted.add_adapter("third", row.make(model))
    adapted.set_adapter("third")
    assert torch.equal(model.run(adapted), model.run(model.build()))


def test_names_of_adapters():
    adapted = adapt(MLP, ROWS["lora"])
    for name, message in (
        ("a.b", "without dots"),
        ("", "without dots"),
        ("default", "already"),
        ("forward", "attribute of"),
        ("training", "attribute of"),
        ("items", "attribute of ModuleDict"),
        ("pop", "attribute of ModuleDict"),
        ("put", "attribute of Tensors"),
        (3, "must be a string"),
    ):
        with pytest.raises(ValueError, match=message):
            adapted.add_adapter(name, ROWS["lora"].make(MLP, modules_to_save=["head"]))
    for call in (
        adapted.set_adapter,
        adapted.delete_adapter,
        lambda name: adapted.merge_adapter([name]),
        lambda name: adapted.save_pretrained("/nonexistent", selected_adapters=[name]),
    ):
        with pytest.raises(ValueError, match="unknown adapter `defualt`; known: default; did you mean `default`"):
            call("defualt")
    with pytest.raises(ValueError, match="active once"):
        adapted.set_adapter(["default", "default"])
    with pytest.raises(ValueError, match="carries adapters already"):
        get_peft_model(adapted, ROWS["lora"].make(MLP))
    base = adapted.get_base_model()
    state = {k: v.clone() for k, v in base.state_dict().items()}
    with pytest.raises(ValueError, match=r"carries adapters already: use add_adapter.*unload\(\) that first"):
        get_peft_model(base, ROWS["lora"].make(MLP))
    assert_same(base.state_dict(), state)
    # Names that a parameter's key contains: HF PEFT loads nothing for an adapter called "lora".
    for name in ("lora", "weight_", "lora_A", "base_layer", "modules_to_save", "model"):
        twin = scramble(adapt(MLP, ROWS["lora"]))
        twin.add_adapter(name, ROWS["lora"].make(MLP, modules_to_save=["head"]))
        twin.set_adapter(name)
        scramble(twin)
        copied = copy.deepcopy(twin)
        assert torch.equal(MLP.run(copied), MLP.run(twin))


def test_odd_adapter_names_save_and_load(tmp_path):
    for name in ("lora", "lora_A", "default_2", "weight_", "base_layer"):
        adapted = get_peft_model(MLP.build(), ROWS["lora"].make(MLP, modules_to_save=["head"]), name)
        scramble(adapted)
        adapted.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(MLP.build(), tmp_path / name, name)
        assert torch.equal(MLP.run(loaded), MLP.run(adapted))
