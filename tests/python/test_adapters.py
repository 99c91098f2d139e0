# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Several adapters on one model; heads, biases and where adapters go; and what is refused, in which words."""

import copy

import pytest
import torch
from models import EACH_ROW, MODELS, ROWS, adapt, assert_same, gradients, loss_of, scramble, trained
from torch import nn

import veneer
from veneer import BottleneckConfig, IA3Config, LoraConfig, PeftModel, SurmConfig, get_peft_model

MLP, BERT = MODELS["mlp"], MODELS["bert"]


def linear(weight_model, adapted, name):
    """The matrix that a (bias-free part of an) adapted linear layer computes."""
    layer = dict(adapted.get_base_model().named_modules())[name]
    d_in = layer.in_features
    with torch.no_grad():
        zero = layer(torch.zeros(1, d_in))
        return layer(torch.eye(d_in)) - zero


# Several adapters ----------------------------------------------------------------------------------------------------


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
        (3, "must be a string"),
    ):
        with pytest.raises(ValueError, match=message):
            adapted.add_adapter(name, ROWS["lora"].make(MLP))
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


# Heads and biases ----------------------------------------------------------------------------------------------------


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
    adapted.set_adapter("default")
    assert trained(adapted)


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


# Where adapters go ---------------------------------------------------------------------------------------------------


def adapted_paths(model):
    return [row.layer for row in model.explain()]


BLOCK = "bert.encoder.layer"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target_modules": ["query"]}, [f"{BLOCK}.{i}.attention.self.query" for i in (0, 1)]),
        (
            {"target_modules": ["1.attention.self.query", f"{BLOCK}.0.attention.self.key"]},
            [f"{BLOCK}.0.attention.self.key", f"{BLOCK}.1.attention.self.query"],
        ),
        ({"target_modules": r".*layer\.1\..*(key|value)"}, [f"{BLOCK}.1.attention.self.{n}" for n in ("key", "value")]),
        (
            {"target_modules": {"value", "query"}, "layers_to_transform": 1},
            [f"{BLOCK}.1.attention.self.{n}" for n in ("query", "value")],
        ),
        (
            {"target_modules": ["query"], "layers_to_transform": [0], "layers_pattern": "layer"},
            [f"{BLOCK}.0.attention.self.query"],
        ),
        (
            {"target_modules": "all-linear", "exclude_modules": ["dense", "key", "classifier"]},
            [f"{BLOCK}.{i}.attention.self.{n}" for i in (0, 1) for n in ("query", "value")],
        ),
        (
            {"target_modules": ["query", "key"], "exclude_modules": r".*0\.attention.*"},
            [f"{BLOCK}.1.attention.self.{n}" for n in ("query", "key")],
        ),
    ],
)
def test_targets(fields, expected):
    assert adapted_paths(get_peft_model(BERT.build(), LoraConfig(**fields))) == expected


@pytest.mark.parametrize("task", [None, "SEQ_CLS"])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "vit", "t5"])
def test_all_linear_leaves_out_the_head(name, task):
    """As HF PEFT does: the output embeddings; without them a head only where the task says that it is one."""
    from veneer.base import is_linear

    base = MODELS[name].build()
    linears = [n for n, m in base.named_modules() if is_linear(m)]
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", task_type=task))
    head = "lm_head" if name in ("gpt2", "llama", "t5") else "classifier" if task else "nothing"
    assert adapted_paths(adapted) == [n for n in linears if not n.startswith(head)]
    assert set(adapted.peft_config["default"].target_modules) >= set(
        adapted_paths(adapted)
    )  # what is written to the file


def test_all_linear_without_and_beside_linear_layers():
    with pytest.raises(
        ValueError, match=r'"all-linear" expected linear layers .* below the model, got a Linear without'
    ):
        get_peft_model(nn.Linear(3, 3), LoraConfig(target_modules="all-linear"))
    # Ends of longer paths are not meant: 0.1 is no linear layer.
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4))
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
    assert adapted_paths(adapted) == ["0.0", "1"]
    assert adapted.peft_config["default"].target_modules == r"0\.0|1"


def test_what_is_given_in_place_of_lists_models_and_adapters():
    adapted = adapt(MLP, ROWS["lora"])
    for call, argument in (
        (adapted.merge_adapter, "adapter_names"),
        (lambda names: adapted.merge_and_unload(adapter_names=names), "adapter_names"),
        (lambda names: adapted.save_pretrained("/nonexistent", selected_adapters=names), "selected_adapters"),
    ):
        with pytest.raises(TypeError, match=rf"{argument} must be a list of names, got 'default'; write \['default'\]"):
            call("default")
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module to adapt, got str"):
        get_peft_model("bert", ROWS["lora"].make(MLP))
    with pytest.raises(AttributeError, match="has no `push_to_hub`"):
        adapt(BERT, ROWS["lora"]).push_to_hub("name")
    adapted.set_adapter([])
    with pytest.raises(ValueError, match="expected an active adapter, got none; known: default"):
        adapted.active_peft_config  # noqa: B018


def test_the_log_says_what_acts(caplog):
    with caplog.at_level("DEBUG", "veneer"):
        adapt(MLP, ROWS["lora"])
    assert "active: default" in caplog.text
    assert "fused" in caplog.text
    assert "not active" not in caplog.text


def test_patterns_of_ranks_and_alphas():
    config = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["first", "third", "fourth"],
        rank_pattern={"third": 5, "f.*th": 3},
        alpha_pattern={"third": 1.0},
    )
    adapted = get_peft_model(MLP.build(), config)
    ranks = {name.split(".")[2]: p.shape[0] for name, p in adapted.named_parameters() if "lora_A" in name}
    assert ranks == {"first": 2, "third": 5, "fourth": 3}
    scramble(adapted)
    base = MLP.build()
    for name, rank, alpha in (("first", 2, 4), ("third", 5, 1), ("fourth", 3, 4)):
        weight = dict(base.named_modules())[name].weight
        a, b = (dict(adapted.named_parameters())[f"base_model.model.{name}.lora_{x}.default.weight"] for x in "AB")
        torch.testing.assert_close(linear(MLP, adapted, name).T, weight + alpha / rank * b @ a, rtol=1e-5, atol=1e-5)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 6)
        self.embedding = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        return self.second(self.first(x))


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (LoraConfig, {"target_modules": ["secnd"]}, "names `secnd`, which matches no module; did you mean `second`?"),
        (
            LoraConfig,
            {"target_modules": ["first", "thrid"]},
            "names `thrid`, which matches no module",
        ),  # a partial miss too
        (LoraConfig, {"target_modules": "secon"}, "did you mean `second`?"),
        (LoraConfig, {"target_modules": "seco[nd"}, "expected a regular expression, got seco"),
        (LoraConfig, {"target_modules": ["embedding"]}, "expected linear layers .* got embedding, a Embedding"),
        (LoraConfig, {"target_modules": []}, "nothing is left to adapt|target_modules"),
        (
            LoraConfig,
            {"target_modules": ["first"], "exclude_modules": ["frist"]},
            "exclude_modules names `frist`.*did you mean `first`",
        ),
        (LoraConfig, {"target_modules": ["first"], "exclude_modules": ["first"]}, "nothing is left to adapt"),
        (
            LoraConfig,
            {"target_modules": ["first"], "exclude_modules": "frist"},
            r"exclude_modules names `frist`.*did you mean `first`\? ",
        ),
        (
            LoraConfig,
            {"target_modules": ["first", "0"], "layers_to_transform": [0, 3]},
            "layers_to_transform names 3, which no block has; indices here: 0, 1",
        ),
        (
            LoraConfig,
            {"target_modules": ["0"], "layers_to_transform": [0], "layers_pattern": "blokcs"},
            "layers_pattern names `blokcs`, which matches no module; did you mean `blocks`",
        ),
        (LoraConfig, {}, 'target_modules is needed: .* Its linear layers: first, second, 0, 1; or "all-linear"'),
        (
            SurmConfig,
            {"target_modules": ["first"], "block_size": 4},
            r"block_size must divide 6 and 4, got 4; the nearest that does is 2.*at first",
        ),
        (
            BottleneckConfig,
            {"placement": "pfeiffer"},
            r"this model is Named\. Name the modules instead: target_modules=\{",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"outputs": ["first"]}},
            "wiring must be one of: .*; got outputs; did you mean `output`",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"output": ["frist"]}},
            "names `frist`, which matches no module; did you mean `first`",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"output": ["embedding"]}},
            "hidden state at embedding .* give hidden_size",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"output": ["first"]}, "hidden_size": 6},
            r"hidden_size must be 4, the size of the hidden state at first \(Linear\), got 6",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"input:5": ["first"]}},
            r"\['input:5'\] expected an argument of first \(Linear\), which has 1, counted from 0; got 5",
        ),
        (BottleneckConfig, {"target_modules": {"norm:1": ["norm"]}}, "wiring must be one of: .*; got norm:1"),
        (
            BottleneckConfig,
            {"target_modules": {"norm": ["first"]}},
            r"\['norm'\] expected norms \(LayerNorm, RMSNorm\), got first, a Linear; norms here: norm",
        ),
    ],
)
def test_target_errors_and_the_model_is_as_before(config, fields, message):
    model = Named()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        get_peft_model(model, config(**fields))
    assert_same(model.state_dict(), before)
    assert all(p.requires_grad for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(target_modules=["first"]))
    keys = set(adapted.state_dict())
    with pytest.raises(ValueError, match=message):
        adapted.add_adapter("second", config(**fields))
    assert set(adapted.state_dict()) == keys
    assert list(adapted.peft_config) == ["default"]


class Coprime(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 10), nn.Linear(10, 7), nn.Linear(7, 7)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "with another adapter"])
def test_an_error_in_the_third_layer_leaves_the_model_as_it_was(used):
    model = Coprime()
    add = lambda: get_peft_model(model, SurmConfig(target_modules="all-linear"))  # noqa: E731
    if used:
        adapted = get_peft_model(model, LoraConfig(target_modules="all-linear"))
        add = lambda: adapted.add_adapter("second", SurmConfig(target_modules="all-linear"))  # noqa: E731
    x = torch.randn(2, 6)
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    modules = [(n, id(m)) for n, m in model.named_modules()]
    with pytest.raises(
        ValueError, match=r"\[circulant\] d_in 10 and d_out 7 have no common divisor .*padding=true.*at layers\.2"
    ):
        add()
    assert_same(model.state_dict(), before)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert [(n, id(m)) for n, m in model.named_modules()] == modules
    assert torch.equal(model(x), expected)
    assert model.training


def test_modes_of_modules_are_left_alone():
    """A user who keeps a part in eval mode (a frozen batch norm) finds it so after adapting."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    model[1].eval()
    adapted = get_peft_model(model, LoraConfig(target_modules=["0"], modules_to_save=["2"]))
    assert adapted.training
    assert not model[1].training
    assert model[0].training


@pytest.mark.parametrize(
    ("config", "fields", "error", "message"),
    [
        (LoraConfig, {"target_modules": 5}, TypeError, "target_modules must be a list of names or a regular .* got 5"),
        (LoraConfig, {"target_modules": [1]}, TypeError, r"target_modules must be a list of names .* got \[1\]"),
        (LoraConfig, {"target_modules": {"output": 1}}, TypeError, "target_modules must be a list of names .* got 1"),
        (LoraConfig, {"modules_to_save": "head"}, TypeError, "modules_to_save must be a list of names, got 'head'"),
        (LoraConfig, {"rr": 3}, TypeError, "unknown field `rr`; known: r, lora_alpha, .*did you mean `r`"),
        (LoraConfig, {"lora_aplha": 3}, TypeError, "did you mean `lora_alpha`"),
        (LoraConfig, {"r": 0}, ValueError, "r must be at least 1, got 0"),
        (LoraConfig, {"r": 2.5}, ValueError, "r must be an integer, got 2.5"),
        (LoraConfig, {"lora_dropout": 1.0}, ValueError, r"lora_dropout must be in 0\.\.0\.9999, got 1"),
        (LoraConfig, {"lora_dropout": float("nan")}, ValueError, "lora_dropout must be"),
        (
            LoraConfig,
            {"bias": "al"},
            ValueError,
            "bias must be one of: none, all, lora_only; got al; did you mean `all`",
        ),
        (LoraConfig, {"use_dora": 1}, ValueError, "use_dora must be true or false, got 1"),
        (
            LoraConfig,
            {"task_type": "SEQCLS"},
            ValueError,
            "task_type must be one of: SEQ_CLS, .* did you mean `SEQ_CLS`",
        ),
        (
            SurmConfig,
            {"structure": "circulent"},
            ValueError,
            "structure must be one of: circulant, symmetric_toeplitz, toeplitz, kronecker, ldr; got circulent; did you mean `circulant`",
        ),
        (
            BottleneckConfig,
            {"placement": "houslby"},
            ValueError,
            "one of: houlsby, houlsby_feedforward, pfeiffer, parallel; got houslby; did you mean `houlsby`",
        ),
        (
            BottleneckConfig,
            {"non_linearity": "swish"},
            ValueError,
            "one of: gelu, gelu_tanh, relu, silu, tanh; got swish",
        ),
        (
            veneer.AdditiveConfig,
            {"matrix": "lowrank"},
            ValueError,
            "unknown structured matrix `lowrank`; known: .*did you mean `low_rank`",
        ),
        (
            veneer.AdditiveConfig,
            {"matrix": {"name": "low_rank", "rnk": 2}},
            ValueError,
            "unknown option `rnk`; known: rank, .*did you mean `rank`",
        ),
    ],
)
def test_configurations_say_what_is_wrong(config, fields, error, message):
    with pytest.raises(error, match=message):
        config(**fields)
