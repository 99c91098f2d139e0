# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of the base that are trained beside an adapter: heads, biases, whole modules."""

import copy

import pytest
import torch
from checks import assert_same, scramble, trained
from models import MODELS
from rows import EACH_ROW, ROWS, adapt
from torch import nn

import veneer
from veneer import LoraConfig, PeftModel, SurmConfig, get_peft_model

MLP, BERT = MODELS["mlp"], MODELS["bert"]


@pytest.mark.parametrize("row", EACH_ROW)
def test_heads_of_the_task_are_trained_and_saved(row, tmp_path):
    base = BERT.build()
    expected = BERT.run(base)
    adapted = get_peft_model(base, row.make(BERT, task_type="SEQ_CLS"))
    assert torch.equal(BERT.run(adapted), expected)
    assert sum(p.numel() for p in trained(adapted).values()) == row.count(BERT) + 24 * 3 + 3
    scramble(adapted)
    acting = BERT.run(adapted)
    with adapted.disable_adapter():
        assert torch.equal(BERT.run(adapted), expected)
    adapted.save_pretrained(tmp_path)
    other = BERT.build()
    nn.init.normal_(other.classifier.weight)  # the file's head replaces it
    assert torch.equal(BERT.run(PeftModel.from_pretrained(other, tmp_path)), acting)
    adapted.add_adapter("second", row.make(BERT, task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match=r"each have their own classifier|cannot act together"):
        adapted.set_adapter(["default", "second"])
    assert torch.equal(BERT.run(adapted), acting)
    if row.mergeable:
        merged = copy.deepcopy(adapted).merge_and_unload()
        assert type(merged.classifier) is nn.Linear
        torch.testing.assert_close(BERT.run(merged), acting, rtol=1e-5, atol=1e-5)
    unloaded = adapted.unload()
    assert torch.equal(BERT.run(unloaded), expected)


def test_modules_to_save_may_be_anything_and_need_not_be_targets():
    adapted = get_peft_model(
        MLP.build(), LoraConfig(target_modules=["first", "head"], modules_to_save=["head", "norm"])
    )
    names = {name.split(".")[2] for name in trained(adapted)}
    assert names == {"first", "head", "norm"}
    assert not any("lora" in name and ".head." in name for name in trained(adapted))  # saved whole: no adapter there
    with pytest.raises(ValueError, match="modules_to_save names `haed`, which matches no module; did you mean `head`"):
        get_peft_model(MLP.build(), LoraConfig(target_modules=["first"], modules_to_save=["haed"]))
    with pytest.raises(ValueError, match="nothing is left to adapt"):
        get_peft_model(MLP.build(), LoraConfig(target_modules=["head"], modules_to_save=["head"]))


@pytest.mark.parametrize(
    "config", [LoraConfig, SurmConfig, veneer.VeraConfig, veneer.AdditiveConfig], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("bias", ["all", "own"])
def test_biases(config, bias, tmp_path):
    option = (
        bias
        if bias == "all"
        else {"LORA": "lora_only", "SURM": "surm_only", "VERA": "vera_only", "ADDITIVE": "additive_only"}[
            config.peft_type
        ]
    )
    base = MLP.build()
    before = {k: v.clone() for k, v in base.state_dict().items()}
    expected = MLP.run(base)
    adapted = get_peft_model(base, config(target_modules=["first", "second", "fourth"], bias=option))
    biases = {name for name in trained(adapted) if name.endswith("bias")}
    wanted = {
        "all": {"first.base_layer", "norm", "third", "fourth.base_layer", "head"},
        "own": {"first.base_layer", "fourth.base_layer"},
    }
    assert biases == {f"base_model.model.{name}.bias" for name in wanted[bias]}
    scramble(adapted)
    acting = MLP.run(adapted)
    with adapted.disable_adapter():
        assert torch.equal(MLP.run(adapted), expected)
    assert torch.equal(MLP.run(adapted), acting)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(MLP.run(PeftModel.from_pretrained(MLP.build(), tmp_path)), acting)
    with pytest.raises(ValueError, match="must be the only one"):
        adapted.add_adapter("second", config(target_modules=["first"]))
    merged = copy.deepcopy(adapted).merge_and_unload()
    torch.testing.assert_close(MLP.run(merged), acting, rtol=1e-5, atol=1e-5)
    adapted.merge_adapter()
    torch.testing.assert_close(MLP.run(adapted), acting, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    assert torch.equal(MLP.run(adapted), acting)
    assert_same(adapted.unload().state_dict(), before)


def test_a_tied_bias_is_trained_once_and_saved_under_each_name(tmp_path):
    def tied():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        model[1].bias = model[0].bias
        return model

    x = torch.randn(3, 6)
    adapted = scramble(get_peft_model(tied(), LoraConfig(target_modules=["0", "1"], bias="all")))
    acting = adapted(x)
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), tied()(x))
    assert torch.equal(adapted(x), acting)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(tied(), tmp_path)(x), acting)


def test_while_disabled_the_adapter_is_kept_as_it_is(tmp_path):
    adapted = scramble(get_peft_model(MLP.build(), LoraConfig(target_modules=["first"], bias="all")))
    acting, state = MLP.run(adapted), {k: v.clone() for k, v in adapted.state_dict().items()}
    with adapted.disable_adapter():
        assert_same(adapted.state_dict(), state)
        adapted.save_pretrained(tmp_path)
        assert torch.equal(MLP.run(adapted), MLP.run(MLP.build()))
        with pytest.raises(RuntimeError, match=r"leave disable_adapter\(\) before merging"):
            adapted.merge_adapter()
        with pytest.raises(RuntimeError, match=r"leave disable_adapter\(\) before loading a state dict"):
            adapted.load_state_dict(state)
        adapted.load_adapter(tmp_path, "default")
    assert torch.equal(MLP.run(adapted), acting)
    assert torch.equal(MLP.run(PeftModel.from_pretrained(MLP.build(), tmp_path)), acting)
    assert_same(adapted.unload().state_dict(), MLP.build().state_dict())


def test_an_adapter_added_while_disabled_acts_afterwards():
    adapted = scramble(adapt(MLP, ROWS["lora"]))
    expected = MLP.run(MLP.build())
    with adapted.disable_adapter():
        adapted.add_adapter("second", LoraConfig(target_modules=["third"], modules_to_save=["head"]))
        adapted.set_adapter("second")
        scramble(adapted)
        assert torch.equal(MLP.run(adapted), expected)
    assert not torch.equal(MLP.run(adapted), expected)


def test_an_adapter_frozen_by_set_adapter_stays_so():
    adapted = adapt(MLP, ROWS["lora"])
    adapted.set_adapter("default", inference_mode=True)
    adapted.add_adapter("b", ROWS["lora"].make(MLP))
    assert not trained(adapted)
    adapted.delete_adapter("b")
    assert not trained(adapted)
    adapted.merge_adapter()
    adapted.unmerge_adapter()
    assert not trained(adapted)
    adapted.set_adapter("default")
    assert trained(adapted)


@pytest.mark.parametrize("row", EACH_ROW)
def test_an_adapter_loaded_frozen_is_trained_once_it_is_set(row, tmp_path):
    """As in HF PEFT: what is_trainable says holds until the next set_adapter."""
    adapted = adapt(BERT, row, task_type="SEQ_CLS")
    names = set(trained(adapted))
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BERT.build(), tmp_path)
    assert not trained(loaded)
    loaded.set_adapter("default")
    assert set(trained(loaded)) == names
    loaded.set_adapter("default", inference_mode=True)
    assert not trained(loaded)
    if row.name == "lora":
        loaded.load_adapter(tmp_path, "second")
        assert not trained(loaded)
        loaded.set_adapter("second")
        assert set(trained(loaded)) == {name.replace(".default", ".second") for name in names}


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo):
        raise RuntimeError("no memory for a copy")


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "with another adapter"])
def test_a_module_that_cannot_be_copied_leaves_the_model_as_it_was(used):
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "head": Uncopied(4, 4)})
    config = LoraConfig(target_modules=["first"], modules_to_save=["norm", "head"])
    add = lambda: get_peft_model(model, config)  # noqa: E731
    if used:
        adapted = get_peft_model(model, LoraConfig(target_modules=["first"], modules_to_save=["norm"]))
        add = lambda: adapted.add_adapter("second", config)  # noqa: E731
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    modules = [(n, id(m)) for n, m in model.named_modules()]
    with pytest.raises(RuntimeError, match="no memory for a copy"):
        add()
    assert_same(model.state_dict(), state)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert [(n, id(m)) for n, m in model.named_modules()] == modules
    if used:
        adapted.add_adapter(
            "second", LoraConfig(target_modules=["first"], modules_to_save=["norm"])
        )  # the name is free


@pytest.mark.parametrize("first", ["heads", "layers"])
def test_a_saved_module_with_another_adapter_s_layers_in_it(first, tmp_path):
    """Its copy is of the plain module, and the two do not act together: the one's layers would be bypassed."""
    model = MODELS["roberta"]
    configs = {
        "layers": LoraConfig(target_modules=["query", "classifier.dense"]),
        "heads": LoraConfig(target_modules=["query"], modules_to_save=["classifier"]),
    }
    second = "layers" if first == "heads" else "heads"
    adapted = scramble(get_peft_model(model.build(), configs[first], first))
    adapted.add_adapter(second, configs[second])
    adapted.set_adapter(second)
    scramble(adapted, seed=6)
    adapted.save_pretrained(tmp_path)
    for name in (first, second):
        adapted.set_adapter(name)
        acting = model.run(adapted)
        assert torch.equal(model.run(PeftModel.from_pretrained(model.build(), tmp_path / name)), acting)
    pattern = r"cannot act together at classifier\.dense: layers adapts it, and heads has its own classifier"
    with pytest.raises(ValueError, match=pattern):
        adapted.set_adapter([first, second])
    assert torch.equal(model.run(adapted), acting)
    adapted.set_adapter("heads")
    acting = model.run(adapted)
    torch.testing.assert_close(model.run(adapted.merge_and_unload()), acting, rtol=1e-5, atol=1e-5)
