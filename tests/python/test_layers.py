# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Base layers that are not plain, and models that do not simply call their layers: nobody is bypassed, and an adapter
either acts or is refused with the reason."""

import copy
import types

import pytest
import torch
from checks import gradients, loss_of, scramble, trained
from models import MODELS
from rows import ROWS, adapt
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from veneer import IA3Config, LoraConfig, get_peft_model

D_IN, D_OUT = 12, 18


class Foreign(nn.Module):
    """A quantised linear as other libraries have them: known by its name and sizes, its weight not a dense tensor."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.abs().max().item() / 127
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class ForeignLinear8bit(Foreign):
    pass


class Subclass(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Tagged(torch.Tensor):
    """A tensor subclass, as quantised or sharded weights are."""


def plain(linear):
    return linear


def with_hook(linear):
    linear.register_forward_hook(lambda module, args, output: 3 * output)
    return linear


def with_pre_hook(linear):
    linear.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return linear


def with_backward_hook(linear):
    linear.register_full_backward_hook(lambda module, grad_in, grad_out: None)
    return linear


def with_own_forward(linear):
    linear.forward = types.MethodType(lambda self, x: F.linear(x, self.weight, self.bias) + 5, linear)
    return linear


def subclassed(linear):
    other = Subclass(D_IN, D_OUT)
    other.load_state_dict(linear.state_dict())
    return other


def parametrized(linear):
    return parametrizations.weight_norm(linear)


def spectral(linear):
    return nn.utils.spectral_norm(linear)


def foreign(linear):
    return ForeignLinear8bit(linear)


def tagged(linear):
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Tagged))
    return linear


KINDS = {
    plain: "a plain Linear",
    with_hook: "the base has hooks",
    with_pre_hook: "the base has hooks",
    with_backward_hook: "the base has hooks",
    with_own_forward: "the base's forward is overridden",
    subclassed: "the base is a Subclass",
    parametrized: "the base is a ParametrizedLinear",
    spectral: "the base has hooks",
    foreign: "the base is a ForeignLinear8bit",
    tagged: "the base's weight is not a plain dense parameter",
}


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(1)
        self.fc = kind(nn.Linear(D_IN, D_OUT))

    def forward(self, x):
        return self.fc(x)


ADDITIVE = [pytest.param(ROWS[name], id=name) for name in ("lora", "circulant", "vera", "dense")]


def updated(row, kind, x):
    """(the base's output, what the adapter adds to it when the base is plain, an adapted net of the kind)."""
    adapted = []
    for one in (plain, kind):
        net = Net(one).eval()
        torch.manual_seed(2)
        adapted.append(scramble(get_peft_model(net, row.make(MODELS["mlp"], target_modules=["fc"]))))
    return Net(kind).eval()(x), adapted[0](x) - Net(plain).eval()(x), adapted[1]


@pytest.mark.parametrize("row", ADDITIVE)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_base_layers_are_called_never_bypassed(kind, row):
    x = torch.randn(4, D_IN)
    base, update, adapted = updated(row, kind, x)
    calls = []
    layer = adapted.base_model.model.fc.base_layer
    explained = adapted.explain()[0]
    assert explained.path == ("fused" if kind is plain else "called")
    assert explained.reason == KINDS[kind]
    torch.testing.assert_close(adapted(x), base + update, rtol=1e-5, atol=1e-5)
    layer.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(adapted(x), base + update, rtol=1e-5, atol=1e-5)
    assert len(calls) == 1
    x.requires_grad_()
    found = gradients(adapted, loss_of(adapted(x)))
    assert all(g is not None and g.abs().max() > 0 for g in found.values())
    loss_of(adapted(x)).backward()
    assert x.grad.abs().max() > 0
    if kind is not tagged:  # torch's own deepcopy asks more of a tensor subclass
        twin = copy.deepcopy(adapted)
        assert torch.equal(twin(x), adapted(x))


def test_global_hooks_see_the_base():
    adapted = get_peft_model(Net(plain), LoraConfig(target_modules=["fc"]))
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        adapted(torch.randn(2, D_IN))
    finally:
        handle.remove()
    assert nn.Linear in seen


@pytest.mark.parametrize("kind", [foreign, parametrized, tagged], ids=lambda k: k.__name__)
def test_what_a_base_without_a_dense_weight_refuses(kind):
    x = torch.randn(4, D_IN)
    adapted = scramble(get_peft_model(Net(kind).eval(), LoraConfig(target_modules=["fc"])))
    expected = adapted(x)
    reason = "its weight is computed" if kind is parametrized else "has no plain dense weight to merge into"
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match=f"cannot merge: fc .*{reason}"):
            merge()
    assert torch.equal(adapted(x), expected)
    if kind is not parametrized:
        model = Net(kind)
        with pytest.raises(
            ValueError, match=r"\[additive\] decompose \(DoRA\) needs the base layer's dense weight.*at fc"
        ):
            get_peft_model(model, LoraConfig(target_modules=["fc"], use_dora=True))
        assert type(model.fc) is type(Net(kind).fc)


def test_arguments_of_a_base_are_passed_on():
    class ScaledLinear(nn.Linear):
        def forward(self, x, scale=1.0, *, shift=0.0):
            return super().forward(x) * scale + shift

    net = nn.Module()
    net.fc = ScaledLinear(D_IN, D_OUT)
    x = torch.randn(2, D_IN)
    expected = net.fc(x, 2.0, shift=1.0)
    get_peft_model(net, LoraConfig(target_modules=["fc"]))
    assert torch.equal(net.fc(x, 2.0, shift=1.0), expected)


def test_ia3_scales_the_input_of_a_called_base():
    torch.manual_seed(1)
    x = torch.randn(4, D_IN)
    adapted = get_peft_model(Net(with_hook).eval(), IA3Config(target_modules=["fc"], feedforward_modules=["fc"]))
    scale = next(iter(trained(adapted).values()))
    with torch.no_grad():
        scale.normal_(1.0, 0.3)
    base = Net(with_hook).eval()
    torch.testing.assert_close(adapted(x), base(x * scale.flatten()), rtol=1e-6, atol=1e-6)


# Shared weights ------------------------------------------------------------------------------------------------------


def test_merging_into_a_tied_weight_is_refused():
    model = MODELS["gpt2"]
    adapted = scramble(adapt(model, ROWS["lora"], target_modules=["lm_head", "c_attn"]))
    expected, state = model.run(adapted), {k: v.clone() for k, v in adapted.state_dict().items()}
    assert not torch.equal(expected, model.base_output())
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match=r"the weight of lm_head is also that of transformer\.wte, .*untie"):
            merge()
    assert torch.equal(model.run(adapted), expected)
    assert all(torch.equal(v, state[k]) for k, v in adapted.state_dict().items())


class Twice(nn.Module):
    """One linear under two names, and one block under two names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Linear(6, 6)
        self.b = self.a
        self.block = nn.Sequential(nn.Linear(6, 6))
        self.again = self.block

    def forward(self, x):
        return self.again(self.block(self.b(self.a(x))))


def test_a_module_used_at_two_places_is_adapted_at_both():
    x = torch.randn(3, 6)
    base = Twice()
    expected = base(x)
    adapted = get_peft_model(base, LoraConfig(target_modules="all-linear", r=2))
    assert torch.equal(adapted(x), expected)
    scramble(adapted)
    state = {k: v.clone() for k, v in adapted.state_dict().items()}
    block = base.block[0]
    weight = block.base_layer.weight + 8 / 2 * block.lora_B.default.weight @ block.lora_A.default.weight
    torch.testing.assert_close(base.block(x), F.linear(x, weight, block.base_layer.bias))  # once, not once a name
    fresh = get_peft_model(Twice(), LoraConfig(target_modules="all-linear", r=2))
    fresh.load_state_dict(state)
    assert torch.equal(fresh(x), adapted(x))
    assert torch.equal(adapted.unload()(x), expected)
    assert base.a is base.b
    assert base.block is base.again


# Explaining ----------------------------------------------------------------------------------------------------------


def test_explain_counts_and_measures():
    model = MODELS["bert"]
    adapted = adapt(model, ROWS["lora"]).train()
    rows = adapted.explain()
    assert [r.layer for r in rows] == [
        f"bert.encoder.layer.{i}.attention.self.{n}" for i in (0, 1) for n in ("query", "value")
    ]
    assert {(r.adapter, r.method, r.parameters, r.path, r.saved_bytes) for r in rows} == {
        ("default", "additive", 144, "fused", None)
    }
    assert "saved_bytes" not in str(rows)
    measured = adapted.explain(**model.inputs())
    # x [21, 24] and x A^T [21, 3] in float32, and nothing else; in the first layer too, where x needs no gradient.
    assert [r.saved_bytes for r in measured] == [4 * 21 * (24 + 3)] * 4
    assert "2,268" in str(measured)
    kernels = "M [24, 24], 21 rows of Float: two factors: tiles of rows, on all threads"
    assert {r.kernels for r in measured} == {kernels}
    adapted.add_adapter("other", ROWS["ia3"].make(model))
    by_name = {(r.layer, r.adapter): r for r in adapted.explain()}
    assert by_name["bert.encoder.layer.0.attention.self.key", "other"].reason == "not active"
    with adapted.disable_adapter():
        assert {r.reason for r in adapted.explain()} == {"adapters are disabled"}
    adapted.merge_adapter()
    assert {r.reason for r in adapted.explain() if r.adapter == "default"} == {"its update is in the base weight"}
