# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Where adapters go; and what is refused, in which words."""

import dataclasses

import pytest
import torch
from checks import assert_same, scramble
from models import MODELS
from rows import ROWS, adapt
from test_adapters import linear
from torch import nn

import veneer
from veneer import BottleneckConfig, LoraConfig, SurmConfig, get_peft_model
from veneer.config import CONFIG_CLASSES

MLP, BERT = MODELS["mlp"], MODELS["bert"]


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
        (
            LoraConfig,
            {"target_modules": "secon"},
            "names `secon`, .*: a string is a regular expression of the whole path, names go into a list; did you mean `second`",
        ),
        (
            LoraConfig,
            {"target_modules": "0"},
            r"names `0`, .*a regular expression of the whole path.*did you mean \['0'\]\?",
        ),
        (
            LoraConfig,
            {"target_modules": ["first"], "exclude_modules": "0"},
            r"exclude_modules names `0`, .*a regular expression of the whole path.*did you mean \['0'\]\?",
        ),
        (
            BottleneckConfig,
            {"target_modules": {"output": "0"}},
            r"\['output'\] names `0`, .*a regular expression of the whole path.*did you mean \['0'\]\?",
        ),
        (LoraConfig, {"target_modules": "seco[nd"}, "expected a regular expression, got seco"),
        (LoraConfig, {"target_modules": ["embedding"]}, "expected linear layers .* got embedding, a Embedding"),
        (LoraConfig, {"target_modules": []}, r"target_modules is empty, got \[\]; expected at least one name"),
        (BottleneckConfig, {"target_modules": {"output": []}}, r"target_modules is empty, got \{'output': \[\]\}"),
        (
            LoraConfig,
            {"target_modules": ["first"], "exclude_modules": ["frist"]},
            "exclude_modules names `frist`.*did you mean `first`",
        ),
        (LoraConfig, {"target_modules": ["first"], "exclude_modules": ["first"]}, "nothing is left to adapt"),
        (
            LoraConfig,
            {"target_modules": ["first"], "exclude_modules": "frist"},
            r"exclude_modules names `frist`, .*a regular expression of the whole path.*did you mean `first`\? ",
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
        (
            LoraConfig,
            {"target_modules": ["0"], "layers_pattern": "blocks"},
            "layers_pattern expected layers_to_transform, .*got layers_pattern='blocks' alone",
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


BY_MODULE = [
    (config, field.name)
    for config in CONFIG_CLASSES.values()
    for field in dataclasses.fields(config)
    if field.name.endswith("_pattern") and field.type.startswith("dict")
]


@pytest.mark.parametrize(("config", "field"), BY_MODULE)
def test_a_value_by_module_names_a_target(config, field):
    message = rf"{field} names `qurey`, which matches no module; did you mean `query`\? \(targets here: query\)"
    with pytest.raises(ValueError, match=message):
        get_peft_model(BERT.build(), config(target_modules=["query"], **{field: {"query": 4, "qurey": 4}}))
    get_peft_model(BERT.build(), config(target_modules=["query"], **{field: {"query": 4}}))


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
