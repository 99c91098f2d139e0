# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Methods written in Python (@veneer.method) have every feature of the host."""

import copy
import pickle

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble, trained
from models import MODELS
from safetensors.torch import load_file
from torch import nn

import veneer
from veneer import MethodConfig, PeftModel, get_peft_model


@veneer.method("test_scale_columns")
class ScaleColumns(veneer.Method):
    """By its weight alone."""

    def parameters(self, d_out, d_in):
        return {"s": veneer.ones(d_in)}

    def weight(self, W, p):
        return W * p["s"]


@veneer.method("test_gate")
class Gate(veneer.Method):
    """By its forward alone; not mergeable."""

    sites = ("linear", "hidden")

    def parameters(self, d_out, d_in):
        return {"g": veneer.zeros(d_out)}

    def forward(self, x, y, W, b, p):
        return y * (1 + torch.tanh(p["g"]))


@veneer.method("test_both")
class Both(veneer.Method):
    """Both, with options and a frozen tensor; sums with other additive adapters."""

    composition = "additive"
    rank: int = 2
    std: float = 0.5

    def parameters(self, d_out, d_in):
        return {
            "down": veneer.normal(self.std, self.rank, d_in, trainable=False),
            "up": veneer.zeros(d_out, self.rank),
            "shift": veneer.zeros(d_out),
        }

    def weight(self, W, p):
        return W + p["up"] @ p["down"]

    def bias(self, b, p):
        return b + p["shift"]

    def forward(self, x, y, W, b, p):
        return y + x @ p["down"].T @ p["up"].T + (0 if b is None else p["shift"])


METHODS = {
    "test_scale_columns": ({}, lambda i, o, b: i),
    "test_gate": ({}, lambda i, o, b: o),
    "test_both": ({"rank": 3}, lambda i, o, b: o * 3 + o),
}
SITES = {"mlp": [(15, 9), (21, 7)], "gpt2": [(24, 72)] * 2}
TARGETS = {"mlp": ["first", "third"], "gpt2": ["c_attn"]}
EACH = [pytest.param(model, name, id=f"{model}-{name}") for model in SITES for name in METHODS]


def make(model, name):
    options, _ = METHODS[name]
    torch.manual_seed(4)
    return get_peft_model(
        MODELS[model].build(), MethodConfig(method=name, options=options, target_modules=TARGETS[model])
    )


@pytest.mark.parametrize(("model", "name"), EACH)
def test_starts_trains_copies_and_saves(model, name, tmp_path):
    base = MODELS[model]
    adapted = make(model, name)
    start = base.run(adapted)
    # Run through its weight, Conv1D's product has another order of sums.
    torch.testing.assert_close(start, base.base_output(), rtol=1e-5, atol=1e-5)
    if name != "test_scale_columns" or model == "mlp":
        assert torch.equal(start, base.base_output())
    count = sum(METHODS[name][1](i, o, True) for i, o in SITES[model])
    assert sum(p.numel() for p in trained(adapted).values()) == count
    scramble(adapted)
    expected = base.run(adapted)
    assert not torch.equal(expected, start)
    assert all(g.abs().max() > 0 for g in gradients(adapted, loss_of(expected)).values())
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert torch.equal(base.run(twin), expected)
    adapted.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert any(key.endswith(f".{name}_{p}") for p in ("s", "g", "up") for key in keys)
    assert torch.equal(base.run(PeftModel.from_pretrained(base.build(), tmp_path)), expected)
    adapted.add_adapter("second", MethodConfig(method=name, target_modules=TARGETS[model]))
    adapted.delete_adapter("default")
    assert not any("default" in key for key in adapted.state_dict())


@pytest.mark.parametrize(("model", "name"), EACH)
def test_merges_where_it_has_a_weight(model, name):
    base = MODELS[model]
    adapted = scramble(make(model, name))
    expected, state = base.run(adapted), {k: v.clone() for k, v in adapted.state_dict().items()}
    if name == "test_gate":
        with pytest.raises(
            ValueError, match=r"default \(test_gate\) at .* cannot be merged: it has no effective weight"
        ):
            adapted.merge_adapter()
        return
    adapted.merge_adapter()
    torch.testing.assert_close(base.run(adapted), expected, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    assert_same(adapted.state_dict(), state)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(base.run(merged), expected, rtol=1e-5, atol=1e-5)
    assert {type(m) for m in merged.modules()} == {type(m) for m in base.build().modules()}


@pytest.mark.parametrize("name", METHODS)
def test_compiles_to_one_graph(name, fresh_compiler):
    adapted = scramble(make("mlp", name))
    compiled = torch.compile(adapted, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (5, 3):
        x = torch.randn(rows, 15)
        torch.testing.assert_close(compiled(x), adapted(x))
        assert_same(
            gradients(adapted, loss_of(compiled(x))), gradients(adapted, loss_of(adapted(x))), rtol=1e-5, atol=1e-5
        )


def test_additive_ones_sum_with_the_cores():
    model = MODELS["mlp"]
    adapted = scramble(make("mlp", "test_both"))
    adapted.add_adapter("lora", veneer.LoraConfig(target_modules=["first"]))
    adapted.set_adapter(["default", "lora"])
    scramble(adapted)
    expected = model.run(adapted)
    adapted.merge_adapter()
    torch.testing.assert_close(model.run(adapted), expected, rtol=1e-5, atol=1e-5)


def test_hidden_sites_and_bases_that_are_called():
    model = MODELS["bert"]
    adapted = get_peft_model(
        model.build(),
        MethodConfig(
            method="test_gate",
            target_modules={"output": ["output.dropout"]},
        ),
    )
    assert torch.equal(model.run(adapted), model.base_output())
    scramble(adapted)
    assert not torch.equal(model.run(adapted), model.base_output())
    assert {row.path for row in adapted.explain()} == {"called"}


def test_explain_says_that_a_python_method_is_called():
    rows = make("mlp", "test_both").explain()
    assert {(row.method, row.path, row.reason) for row in rows} == {
        ("test_both", "called", "a Python method is given the base's output")
    }


def test_mistakes_are_named():
    model = MODELS["mlp"]
    fields = {"target_modules": ["first"]}
    with pytest.raises(ValueError, match=r"unknown method `test_gaet`; known: .*did you mean `test_gate`"):
        get_peft_model(model.build(), MethodConfig(method="test_gaet", **fields))
    with pytest.raises(ValueError, match=r"\[test_both\] unknown option `rnk`; known: rank, std; did you mean `rank`"):
        get_peft_model(model.build(), MethodConfig(method="test_both", options={"rnk": 2}, **fields))
    with pytest.raises(ValueError, match=r"\[test_both\] works at sites: linear; got a hidden site at first"):
        get_peft_model(model.build(), MethodConfig(method="test_both", target_modules={"output": ["first"]}))
    with pytest.raises(ValueError, match="`ia3` is a method of the core"):
        veneer.method("ia3")
    with pytest.raises(TypeError, match=r"expected a subclass of veneer\.Method"):
        veneer.method("test_nothing")(nn.Linear)

    @veneer.method("test_empty")
    class Empty(veneer.Method):
        def parameters(self, d_out, d_in):
            return {"s": veneer.ones(1)}

    with pytest.raises(TypeError, match=r"\[test_empty\] expected a `weight` or a `forward`, got neither"):
        get_peft_model(model.build(), MethodConfig(method="test_empty", **fields))

    @veneer.method("test_dotted")
    class Dotted(veneer.Method):
        def parameters(self, d_out, d_in):
            return {"a.b": veneer.ones(1)}

        def weight(self, W, p):
            return W

    with pytest.raises(ValueError, match="dots"):
        get_peft_model(model.build(), MethodConfig(method="test_dotted", **fields))


def test_a_name_registered_anew_serves_new_adapters():
    """As when a notebook cell runs twice."""

    def register(factor):
        @veneer.method("test_redefined")
        class Redefined(veneer.Method):
            def parameters(self, d_out, d_in):
                return {"s": veneer.ones(d_out)}

            def forward(self, x, y, W, b, p):
                return y * p["s"] * factor

    model = MODELS["mlp"]
    for factor in (1.0, 2.0):
        register(factor)
        adapted = get_peft_model(model.build(), MethodConfig(method="test_redefined", target_modules=["head"]))
        torch.testing.assert_close(model.run(adapted), factor * model.base_output())
