# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Merging into weights, unloading and switching off: every method on every kind of model."""

import copy

import pytest
import torch
from checks import assert_same, scramble, trained
from models import MODELS
from rows import EVERY, MERGEABLE, ROWS, adapt
from torch import nn

import veneer

EVERY_MERGEABLE = [case for case in EVERY if case.values[1].mergeable]


def plain(model):
    """Type of every module and a copy of every tensor: what "as it was" means."""
    return {name: type(m) for name, m in model.named_modules()}, {k: v.clone() for k, v in model.state_dict().items()}


def assert_plain(model, before):
    kinds, tensors = before
    assert {name: type(m) for name, m in model.named_modules()} == kinds
    assert_same(model.state_dict(), tensors)


@pytest.mark.parametrize(("model", "row"), EVERY_MERGEABLE)
def test_merge_and_unmerge(model, row, tmp_path):
    adapted = scramble(adapt(model, row), std=0.1)
    expected, state = model.run(adapted), {k: v.clone() for k, v in adapted.state_dict().items()}
    adapted.save_pretrained(tmp_path / "unmerged")

    adapted.merge_adapter()
    torch.testing.assert_close(model.run(adapted), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.run(adapted), model.base_output())
    assert_same(adapted.state_dict(), state)  # the truth, not the merged weights
    adapted.save_pretrained(tmp_path / "merged")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "unmerged" / name).read_bytes()
    twin = copy.deepcopy(adapted)
    twin.unmerge_adapter()
    assert_same(twin.state_dict(), state)
    assert torch.equal(model.run(twin), expected)
    with pytest.raises(RuntimeError, match=r"merged into .*unmerge_adapter\(\) first"):
        model.run(adapted.train())
    adapted.eval()
    for refused in (
        lambda: adapted.load_state_dict(state),
        lambda: adapted.add_adapter("other", row.make(model)),
        lambda: adapted.delete_adapter("default"),
        lambda: adapted.load_adapter(tmp_path / "merged", "default"),
    ):
        with pytest.raises(RuntimeError, match=r"unmerge_adapter\(\) before"):
            refused()

    adapted.unmerge_adapter()
    assert torch.equal(model.run(adapted), expected)
    assert_same(adapted.state_dict(), state)


@pytest.mark.parametrize(("model", "row"), EVERY_MERGEABLE)
def test_merge_and_unload(model, row):
    before = plain(model.build())
    adapted = scramble(adapt(model, row), std=0.1)
    expected = model.run(adapted)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model.build())
    kinds, tensors = plain(merged)
    assert kinds == before[0]
    assert tensors.keys() == before[1].keys()
    torch.testing.assert_close(model.run(merged), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", MERGEABLE)
def test_merge_twice_warns_and_kept_copies_can_go_elsewhere(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row))
    expected = model.run(adapted)
    with pytest.warns(UserWarning, match="nothing is merged"):
        adapted.unmerge_adapter()
    adapted.merge_adapter(keep_on="cpu", safe_merge=True)
    with pytest.warns(UserWarning, match="merged already"):
        adapted.merge_adapter()
    adapted.double()  # a cast while merged reaches the kept weights too
    adapted.unmerge_adapter()
    torch.testing.assert_close(model.run(adapted, torch.float64).float(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        next(iter(trained(adapted).values())).fill_(float("nan"))
    state = {k: v.clone() for k, v in adapted.state_dict().items()}
    with pytest.raises(ValueError, match="NaN or infinity"):
        adapted.merge_adapter(safe_merge=True)
    for key, value in adapted.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_a_safe_merge_is_of_all_layers_or_none(merge):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, ROWS["lora"]))
    with torch.no_grad():
        list(trained(adapted).values())[-1].fill_(float("nan"))  # in the last layer
    bases = [(layer.base_layer.weight, layer.base_layer.weight.clone()) for layer in adapted.base_model.layers()]
    with pytest.raises(ValueError, match=r"merging default into fourth gives a weight with NaN or infinity"):
        getattr(adapted, merge)(safe_merge=True)
    assert all(torch.equal(weight, before) for weight, before in bases)
    assert not adapted.base_model.merged()
    assert list(adapted.peft_config) == ["default"]


@pytest.mark.parametrize("unload", ["merge_and_unload", "unload"])
def test_after_unloading_the_wrapper_holds_no_adapter(unload, tmp_path):
    model = MODELS["bert"]
    adapted = scramble(adapt(model, ROWS["vera"]))
    plain_model = getattr(adapted, unload)()
    assert (adapted.peft_config, adapted.active_adapters) == ({}, [])
    assert torch.equal(model.run(adapted), model.run(plain_model))
    assert not any("vera" in key for key in adapted.state_dict())
    with pytest.raises(RuntimeError, match="there is no adapter to save: all were unloaded or deleted"):
        adapted.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(RuntimeError, match="were unloaded: get_peft_model"):
        adapted.add_adapter("more", ROWS["vera"].make(model))
    with pytest.raises(RuntimeError, match="no adapter is active"):
        adapted.merge_and_unload()


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_merging_without_an_active_adapter_is_refused(merge):
    adapted = adapt(MODELS["mlp"], ROWS["lora"])
    adapted.delete_adapter("default")
    with pytest.raises(RuntimeError, match=r"no adapter is active.*set_adapter\(name\) first"):
        getattr(adapted, merge)()


def test_what_is_merged_is_what_is_unloaded():
    """The adapters that are named, with their own heads, whatever is active."""
    model, row = MODELS["bert"], ROWS["lora"]
    adapted = scramble(adapt(model, row, task_type="SEQ_CLS"))
    adapted.add_adapter("b", row.make(model, task_type="SEQ_CLS"))
    adapted.set_adapter("b")
    second = model.run(scramble(adapted, seed=6))
    adapted.set_adapter("default")
    first = model.run(adapted)
    twin = copy.deepcopy(adapted)
    torch.testing.assert_close(model.run(twin.merge_and_unload(adapter_names=["b"])), second, rtol=1e-5, atol=1e-5)
    adapted.merge_adapter(["b"])
    torch.testing.assert_close(model.run(adapted), second, rtol=1e-5, atol=1e-5)
    adapted.set_adapter("default")  # active already: nothing changes
    torch.testing.assert_close(model.run(adapted), second, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"b is merged: unmerge_adapter\(\) before merging default"):
        adapted.merge_and_unload(adapter_names=["default"])
    twin = copy.deepcopy(adapted)
    torch.testing.assert_close(model.run(twin.merge_and_unload()), second, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    assert torch.equal(model.run(adapted), first)


def module_of_two_names():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied_weight():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def tied_buffer():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    weight = model[0].weight.detach()
    for layer in (model[0], model[2]):
        del layer.weight
        layer.register_buffer("weight", weight)
    return model


def with_computed_bias():
    layer = nn.Linear(4, 4)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    return nn.Sequential(layer)


TIED = r"cannot merge: the weight of 0 is also that of 2, which merging would change; untie them first"
COMPUTED = r"cannot merge: 0 .*: its weight is computed, not stored"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (module_of_two_names, TIED),
        (tied_weight, TIED),
        (tied_buffer, TIED),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))), COMPUTED),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4))), COMPUTED),
        (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))), COMPUTED),
        (with_computed_bias, COMPUTED.replace("weight", "bias")),
    ],
    ids=["two names", "tied", "tied buffer", "spectral_norm", "weight_norm", "parametrized", "parametrized bias"],
)
@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weights_that_merging_cannot_own_are_refused(build, message, merge):
    adapted = scramble(veneer.get_peft_model(build(), veneer.LoraConfig(target_modules="0"))).eval()
    x = torch.randn(2, 4)
    expected = adapted(x)
    with pytest.raises(ValueError, match=message):
        getattr(adapted, merge)()
    assert torch.equal(adapted(x), expected)


def test_a_weight_of_the_model_itself_is_tied_too():
    base = nn.Sequential(nn.Linear(4, 4))
    base.register_parameter("own", base[0].weight)
    adapted = scramble(veneer.get_peft_model(base, veneer.LoraConfig(target_modules=["0"])))
    with pytest.raises(ValueError, match="the weight of 0 is also that of the model, which merging would change"):
        adapted.merge_adapter()


def test_a_tied_bias_is_refused_where_it_changes():
    def tied():
        base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        base[1].bias = base[0].bias
        return base

    scaled = scramble(veneer.get_peft_model(tied(), veneer.IA3Config(target_modules=["0"], feedforward_modules=[])))
    with pytest.raises(ValueError, match="the bias of 0 is also that of 1, which merging would change"):
        scaled.merge_adapter()
    x = torch.randn(2, 4)
    adapted = scramble(veneer.get_peft_model(tied(), veneer.LoraConfig(target_modules=["0"]))).eval()
    expected = adapted(x)
    torch.testing.assert_close(adapted.merge_and_unload()(x), expected, rtol=1e-5, atol=1e-5)


def test_a_buffer_is_merged_into():
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    adapted = scramble(veneer.get_peft_model(nn.Sequential(layer), veneer.LoraConfig(target_modules=["0"]))).eval()
    x = torch.randn(2, 4)
    expected = adapted(x)
    torch.testing.assert_close(adapted.merge_and_unload()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_a_bottleneck_refuses_to_merge(placement):
    model = MODELS["bert"]
    adapted = scramble(adapt(model, ROWS[placement]))
    expected = model.run(adapted)
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged: its nonlinearity has no effective weight"):
            merge()
    assert torch.equal(model.run(adapted), expected)


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_unload_and_disable_give_the_base(model, row):
    base, expected = model.build(), model.base_output()
    before = plain(base)
    adapted = scramble(veneer.get_peft_model(base, row.make(model)))
    acting = model.run(adapted)
    with adapted.disable_adapter():
        assert torch.equal(model.run(adapted), expected)
        with adapted.disable_adapter():
            assert torch.equal(model.run(adapted), expected)
        assert torch.equal(model.run(adapted), expected)
    assert torch.equal(model.run(adapted), acting)
    unloaded = adapted.unload()
    assert unloaded is base
    assert_plain(unloaded, before)
    assert torch.equal(model.run(unloaded.requires_grad_(False)), expected)
    assert torch.equal(model.run(veneer.get_peft_model(unloaded, row.make(model))), expected)  # and can be adapted anew
