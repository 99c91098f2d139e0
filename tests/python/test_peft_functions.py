# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Functions and arguments of Hugging Face PEFT's beside its files: `get_peft_model`'s, state dicts of an adapter, status,
weighted sums of adapters; each held to PEFT's own."""

import dataclasses
import inspect

import pytest
import torch
from checks import assert_same, scramble, trained
from models import MODELS
from peft_cases import configs, peft, theirs_of

import veneer

MLP = MODELS["mlp"]


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which", ["get_peft_model", "__init__", "add_adapter", "save_pretrained", "from_pretrained", "load_adapter"]
)
def test_positions_of_arguments_are_peft_s(which):
    ours, theirs = (
        [
            p.name
            for p in inspect.signature(
                getattr(library if which == "get_peft_model" else library.PeftModel, which)
            ).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        for library in (veneer, peft)
    )
    assert ours == theirs[: len(ours)]


def test_mixed_and_revision():
    config = configs("mlp", "lora")[0]
    adapted = veneer.get_peft_model(MLP.build(torch.bfloat16), config, "default", False)
    assert {p.dtype for p in trained(adapted).values()} == {torch.float32}
    with pytest.raises(ValueError, match=r"mixed must be False, got True: there is no PeftMixedModel.*set_adapter"):
        veneer.get_peft_model(MLP.build(), config, mixed=True)
    for library, given in zip((veneer, peft), configs("mlp", "lora"), strict=True):
        adapted = library.get_peft_model(MLP.build(), given, revision="v2")
        assert adapted.peft_config["default"].revision == "v2"
    assert config.revision is None  # the caller's stays as it is
    with pytest.warns(UserWarning, match="revision='v3' replaces the configuration's 'v2'"):
        adapted = veneer.get_peft_model(MLP.build(), adapted.peft_config["default"], revision="v3")
    assert adapted.peft_config["default"].revision == "v3"


def test_layers_with_peft_s_own_adapters_are_refused():
    config, their_config = configs("mlp", "lora")
    theirs = peft.get_peft_model(MLP.build(), their_config)
    with pytest.raises(ValueError, match=r"carries adapters of Hugging Face PEFT \(Linear\): merge_and_unload\(\) or"):
        veneer.get_peft_model(theirs.get_base_model(), config)
    assert MLP.run(veneer.get_peft_model(theirs.unload(), config)).isfinite().all()


# An adapter's tensors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "lora all biases"])
def test_state_dicts_go_both_ways(name, tmp_path):
    config, their_config = configs("mlp", name, modules_to_save=["head"])
    theirs = theirs_of("mlp", their_config, torch.float64)
    ours = scramble(veneer.get_peft_model(MLP.build(torch.float64), config))
    state = peft.get_peft_model_state_dict(theirs)
    result = veneer.set_peft_model_state_dict(ours, state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    torch.testing.assert_close(MLP.run(ours, torch.float64), MLP.run(theirs, torch.float64))
    mine = veneer.get_peft_model_state_dict(ours)
    assert_same(mine, {key: state[key] for key in state if ".modules_to_save." not in key})
    assert not any(tensor.requires_grad for tensor in mine.values())
    # From a state dict given, and into theirs.
    halved = {key: tensor / 2 for key, tensor in ours.state_dict().items()}
    mine = veneer.get_peft_model_state_dict(ours, halved)
    assert_same(mine, {key: state[key] / 2 for key in mine})
    assert not peft.set_peft_model_state_dict(theirs, mine).unexpected_keys
    veneer.set_peft_model_state_dict(ours, mine)
    torch.testing.assert_close(MLP.run(ours, torch.float64), MLP.run(theirs, torch.float64))


def test_state_dicts_are_strict_and_of_one_adapter():
    ours = scramble(veneer.get_peft_model(MLP.build(), configs("mlp", "lora")[0]))
    ours.add_adapter("other", configs("mlp", "rslora")[0])
    first, second = (veneer.get_peft_model_state_dict(ours, adapter_name=name) for name in ("default", "other"))
    assert first.keys() == second.keys()
    veneer.set_peft_model_state_dict(ours, first, "other")
    assert_same(veneer.get_peft_model_state_dict(ours, adapter_name="other"), first)
    with pytest.raises(ValueError, match=r"the state dict does not fit the model; missing: .*; unexpected: x$"):
        veneer.set_peft_model_state_dict(ours, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown adapter `third`; known: default, other"):
        veneer.get_peft_model_state_dict(ours, adapter_name="third")
    with pytest.raises(ValueError, match="the state dict given lacks base_model"):
        veneer.get_peft_model_state_dict(ours, {})
    for function in (veneer.get_peft_model_state_dict, veneer.get_layer_status, veneer.get_model_status):
        with pytest.raises(TypeError, match=r"expected a veneer\.PeftModel, got a models\.Mlp"):
            function(MLP.build())


# Status ----------------------------------------------------------------------------------------------------------------

STATES = {
    "fresh": lambda model: None,
    "other": lambda model: model.set_adapter("other"),
    "merged": lambda model: model.merge_adapter(),
    "irregular": lambda model: trained(model).popitem()[1].requires_grad_(False),
    "one irregular layer": lambda model: next(iter(trained(model).values())).requires_grad_(False),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "vera"])
def test_status(name, state):
    models = []
    for library, config in zip((veneer, peft), configs("mlp", name), strict=True):
        model = library.get_peft_model(MLP.build(), config)
        model.add_adapter("other", config)
        STATES[state](model)
        models.append(model)
    _assert_same_status(*models)
    if state != "merged":
        with models[0].disable_adapter(), models[1].disable_adapter():
            assert models[0].get_model_status().enabled is False
            _assert_same_status(*models, but={"requires_grad", "trainable_params"})  # PEFT freezes what is disabled


def test_status_of_saved_modules():
    models = [
        library.get_peft_model(MLP.build(), config)
        for library, config in zip((veneer, peft), configs("mlp", "lora", modules_to_save=["head"]), strict=True)
    ]
    _assert_same_status(*models)
    kinds = [layer.module_type for layer in models[0].get_layer_status()]
    assert kinds == ["AdaptedLayer"] * 3 + ["SavedModule"]
    models[0].delete_adapter("default")
    assert models[0].get_layer_status() == []
    assert models[0].get_model_status().num_adapter_layers == 0


def _assert_same_status(ours, theirs, but=frozenset()):
    for mine, other in zip(ours.get_layer_status(), theirs.get_layer_status(), strict=True):
        _assert_same_fields(mine, other, {"quantization_backend", "module_type", *but})
    _assert_same_fields(
        ours.get_model_status(), theirs.get_model_status(), {"quantization_backend", "adapter_model_type", *but}
    )
    assert veneer.get_layer_status(ours) == ours.get_layer_status()
    assert veneer.get_model_status(ours) == ours.get_model_status()


def _assert_same_fields(mine, other, but):
    mine, other = ({k: v for k, v in dataclasses.asdict(one).items() if k not in but} for one in (mine, other))
    assert mine == other


# Weighted sums ---------------------------------------------------------------------------------------------------------

ADAPTERS = {
    "alike": [{}, {"lora_alpha": 7}],
    "patterns": [{"alpha_pattern": {"first": 9}}, {}],
    "rslora": [{"use_rslora": True}, {"lora_alpha": 7}],
    "ranks": [{"r": 2}, {"r": 4, "rank_pattern": {"third": 5}}],
    "places": [{"target_modules": ["first"]}, {"target_modules": ["third", "first"]}],
}


def _pair(case, dtype=torch.float64):
    """Models of ours and PEFT's with the same two adapters."""
    theirs = theirs_of("mlp", configs("mlp", "lora", **ADAPTERS[case][0])[1], dtype)
    theirs.add_adapter("other", configs("mlp", "lora", **ADAPTERS[case][1])[1])
    theirs.set_adapter("other")
    scramble(theirs, seed=8)
    ours = veneer.get_peft_model(MLP.build(dtype), configs("mlp", "lora", **ADAPTERS[case][0])[0])
    ours.add_adapter("other", configs("mlp", "lora", **ADAPTERS[case][1])[0])
    for name in ("default", "other"):
        veneer.set_peft_model_state_dict(ours, peft.get_peft_model_state_dict(theirs, adapter_name=name), name)
    return ours, theirs


@pytest.mark.parametrize("weights", [[0.75, 0.5], [1.5, -0.5]], ids=str)
@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind in ("cat", "svd", "linear") for case in ADAPTERS if (kind, case) != ("linear", "ranks")],
)
def test_weighted_sums_are_peft_s(kind, case, weights, tmp_path):
    ours, theirs = _pair(case)
    ours.add_weighted_adapter(["default", "other"], weights, "sum", kind)
    theirs.add_weighted_adapter(["default", "other"], weights, "sum", kind)
    assert ours.active_adapters == ["default"]
    mine, other = ours.peft_config["sum"], theirs.peft_config["sum"]
    assert (mine.r, mine.lora_alpha) == (other.r, other.lora_alpha)
    a, b = veneer.get_peft_model_state_dict(ours, None, "sum"), peft.get_peft_model_state_dict(theirs, None, "sum")
    if kind == "svd":  # a factor's sign is free
        a, b = ({key: t.abs() for key, t in state.items()} for state in (a, b))
    close = (
        {"rtol": 1e-6, "atol": 1e-6} if kind == "linear" else {"rtol": 1e-9, "atol": 1e-9}
    )  # their roots are float32
    assert_same(a, b, **close)
    ours.set_adapter("sum")
    theirs.set_adapter("sum")
    if case != "rslora":  # theirs is scaled once more, by the square root of the rank
        torch.testing.assert_close(MLP.run(ours, torch.float64), MLP.run(theirs, torch.float64), **close)
    if kind == "cat":  # exactly the sum
        sums = {}
        for name, weight in zip(("default", "other"), weights, strict=True):
            for layer in ours.base_model.layers():
                if name in layer.adapters:
                    zero = torch.zeros_like(layer.base_layer.weight)
                    update = layer.adapters[name].method.weight(zero, layer.adapters[name].params())
                    sums[layer] = sums.get(layer, 0) + weight * update
        for layer, expected in sums.items():
            zero = torch.zeros_like(expected)
            torch.testing.assert_close(
                layer.adapters["sum"].method.weight(zero, layer.adapters["sum"].params()), expected
            )
    ours.save_pretrained(tmp_path, selected_adapters=["sum"])
    again = peft.PeftModel.from_pretrained(MLP.build(torch.float64), tmp_path / "sum").eval()
    torch.testing.assert_close(MLP.run(again, torch.float64), MLP.run(ours, torch.float64))


def test_rank_and_numbers_of_a_weighted_sum():
    ours, theirs = _pair("alike")
    for model in (ours, theirs):
        model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "sum", svd_rank=2)
        model.set_adapter("sum")
    assert ours.peft_config["sum"].r == 2
    torch.testing.assert_close(MLP.run(ours, torch.float64), MLP.run(theirs, torch.float64))
    for wide in (True, False):
        model = veneer.get_peft_model(MLP.build(torch.bfloat16), configs("mlp", "lora")[0], autocast_adapter_dtype=wide)
        model.add_weighted_adapter(["default"], [2.0], "sum", "cat")
        dtypes = {t.dtype for t in veneer.get_peft_model_state_dict(model, adapter_name="sum").values()}
        assert dtypes == {torch.float32 if wide else torch.bfloat16}


@pytest.mark.parametrize(
    ("fields", "arguments", "message"),
    [
        ({}, {"combination_type": "ties"}, "combination_type must be one of: linear, cat, svd; got ties"),
        ({}, {"weights": [1.0]}, "one weight for each of one or more adapters, got 2 adapters and 1 weights"),
        ({}, {"weights": [1.0, float("nan")]}, "weights must be finite numbers"),
        ({}, {"svd_rank": 0}, "svd_rank must be positive"),
        ({}, {"svd_rank": 2, "combination_type": "cat"}, "svd_rank .* is of combination_type='svd' alone"),
        ({}, {"adapters": ["default", "third"]}, "unknown adapter `third`"),
        ({}, {"adapter_name": "other"}, "there is an adapter `other` already"),
        ({"r": 2}, {"combination_type": "linear"}, "adapters of one rank, got default of 3, other of 2"),
        ({"use_dora": True}, {}, "other is a DoRA"),
        ({"modules_to_save": ["head"]}, {}, "other has modules of its own"),
    ],
)
def test_what_has_no_weighted_sum_is_refused(fields, arguments, message):
    ours = veneer.get_peft_model(MLP.build(), configs("mlp", "lora")[0])
    ours.add_adapter("other", configs("mlp", "lora", **fields)[0])
    state = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
    given = {"adapters": ["default", "other"], "weights": [1.0, 1.0], "adapter_name": "sum", **arguments}
    with pytest.raises(ValueError, match=message):
        ours.add_weighted_adapter(**given)
    assert_same(ours.state_dict(), state)
    assert list(ours.peft_config) == ["default", "other"]


def test_other_methods_have_no_weighted_sum():
    ours = veneer.get_peft_model(MLP.build(), configs("mlp", "ia3")[0])
    with pytest.raises(ValueError, match="expected plain LoRA adapters of linear layers; default is a IA3Config"):
        ours.add_weighted_adapter(["default"], [1.0], "sum")
