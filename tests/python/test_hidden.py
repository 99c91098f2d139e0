# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters at hidden states, held to blocks written out by hand from the papers: Houlsby (arXiv 1902.00751) after
both sub-layers, Pfeiffer (arXiv 2005.00052) around the last norm, parallel (arXiv 2110.04366) beside the feed-forward."""

import re
import types

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble, trained
from models import MODELS
from rows import ROWS, adapt
from torch import nn
from torch.nn import functional as F

import veneer
from veneer import BottleneckConfig, LoraConfig, PeftModel, get_peft_model

# Blocks by hand: `a(n, z)` is the n-th adapter's update of the block for state z, zero where the placement has none there:
# 0 after attention, 1 after the feed-forward, 2 around or after the last norm, 3 beside the feed-forward.


def post_norm(attend, norm1, feed, norm2):
    """BERT's order of things."""

    def forward(block, a, h, *args, **kwargs):
        u = attend(block, h, *args, **kwargs)
        h = norm1(block)(u + a(0, u) + h)
        u = feed(block, h)
        v = u + a(1, u) + h + a(3, h)
        return norm2(block)(v + a(2, norm2(block)(v)))

    return forward


def pre_norm(attend, norm1, feed, norm2):
    """GPT's order of things."""

    def forward(block, a, h, *args, **kwargs):
        u = attend(block, norm1(block)(h), *args, **kwargs)
        h = h + u + a(0, u)
        n = norm2(block)(h)
        u = feed(block, n)
        out = h + u + a(1, u) + a(3, n)
        return out + a(2, out)

    return forward


bert_block = post_norm(
    lambda b, h, mask=None, *args, **kw: b.attention.output.dense(b.attention.self(h, mask)[0]),
    lambda b: b.attention.output.LayerNorm,
    lambda b, h: b.output.dense(F.gelu(b.intermediate.dense(h))),
    lambda b: b.output.LayerNorm,
)
BLOCKS = {
    "bert": ("BertLayer", bert_block),
    "roberta": ("RobertaLayer", bert_block),
    "distilbert": (
        "TransformerBlock",
        post_norm(
            lambda b, h, mask=None, **kw: b.attention(h, attention_mask=mask, **kw)[0],
            lambda b: b.sa_layer_norm,
            lambda b, h: b.ffn.lin2(F.gelu(b.ffn.lin1(h))),
            lambda b: b.output_layer_norm,
        ),
    ),
    "vit": (
        "ViTLayer",
        pre_norm(
            lambda b, n, mask=None, **kw: b.attention(n, mask, **kw)[0],
            lambda b: b.layernorm_before,
            lambda b, n: b.mlp.fc2(F.gelu(b.mlp.fc1(n))),
            lambda b: b.layernorm_after,
        ),
    ),
    "gpt2": (
        "GPT2Block",
        pre_norm(
            lambda b, n, cache=None, mask=None, *args, **kw: b.attn(n, cache=cache, **{"attention_mask": mask, **kw})[
                0
            ],
            lambda b: b.ln_1,
            lambda b, n: b.mlp.c_proj(F.gelu(b.mlp.c_fc(n), approximate="tanh")),
            lambda b: b.ln_2,
        ),
    ),
    "llama": (
        "LlamaDecoderLayer",
        pre_norm(
            lambda b, n, **kw: b.self_attn(hidden_states=n, **kw)[0],
            lambda b: b.input_layernorm,
            lambda b, n: b.mlp.down_proj(F.silu(b.mlp.gate_proj(n)) * b.mlp.up_proj(n)),
            lambda b: b.post_attention_layernorm,
        ),
    ),
}
PLACES = {"houlsby": [0, 1], "pfeiffer": [2], "parallel": [3]}


def hand_adapter(tensors, scale, act):
    """s * (up(act(down z + b_down)) + b_up) from an adapter's four tensors, in the order they were made."""
    down, down_bias, up, up_bias = tensors
    return lambda z: scale * (act(z @ down.T + down_bias) @ up.T + up_bias)


@pytest.mark.parametrize("placement", PLACES)
@pytest.mark.parametrize("name", BLOCKS)
def test_placements_are_the_papers(name, placement):
    model, (kind, block_forward) = MODELS[name], BLOCKS[name]
    config = BottleneckConfig(placement=placement, reduction_factor=3, non_linearity="relu", scaling=0.5)
    adapted = scramble(get_peft_model(model.build(torch.float64), config))
    layers = adapted.base_model.layers()
    reference = model.build(torch.float64).requires_grad_(False)
    blocks = [m for m in reference.modules() if type(m).__name__ == kind]
    assert len(layers) == len(blocks) * len(PLACES[placement])
    for i, block in enumerate(blocks):
        own = layers[i * len(PLACES[placement]) :][: len(PLACES[placement])]
        adapters = {
            n: hand_adapter(layer.adapters["default"].params(), 0.5, torch.relu)
            for n, layer in zip(PLACES[placement], own, strict=True)
        }
        a = lambda n, z, adapters=adapters: adapters[n](z) if n in adapters else 0  # noqa: E731
        block.forward = types.MethodType(lambda self, *args, a=a, **kw: block_forward(self, a, *args, **kw), block)
    ours, expected = model.run(adapted, torch.float64), model.run(reference, torch.float64)
    assert (ours - model.base_output(torch.float64)).abs().max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-11)
    assert_same(
        gradients(adapted, loss_of(ours)),
        dict(
            zip(trained(adapted), torch.autograd.grad(loss_of(expected), list(trained(adapted).values())), strict=True)
        ),
        rtol=1e-8,
        atol=1e-9,
    )


@pytest.mark.parametrize("placement", PLACES)
def test_t5(placement):
    model = MODELS["t5"]
    adapted = scramble(
        get_peft_model(model.build(torch.float64), BottleneckConfig(placement=placement, reduction_factor=3))
    )
    reference = model.build(torch.float64).requires_grad_(False)
    by_path = {
        layer.path: hand_adapter(layer.adapters["default"].params(), 1.0, F.gelu)
        for layer in adapted.base_model.layers()
    }
    used = set()

    def update(prefix, z):
        found = [path for path in by_path if path.startswith(prefix + ".") or path == prefix]
        assert len(found) <= 1
        used.update(found)
        return by_path[found[0]](z) if found else 0

    for path, module in reference.named_modules():
        if type(module).__name__ == "T5LayerFF":

            def forward(self, h, path=path):
                n = self.layer_norm(h)
                u = self.DenseReluDense(n)
                out = (
                    h
                    + u
                    + update(path, {"houlsby": u, "parallel": n}.get(placement, torch.zeros_like(u)))
                    * (placement != "pfeiffer")
                )
                return out + update(path, out) * (placement == "pfeiffer")

            module.forward = types.MethodType(forward, module)
        elif type(module).__name__ == "T5LayerSelfAttention" and placement == "houlsby":

            def forward(self, h, attention_mask=None, position_bias=None, cache=None, path=path, **kw):
                u, bias, weights = self.SelfAttention(
                    self.layer_norm(h), mask=attention_mask, position_bias=position_bias, cache=cache, **kw
                )
                return h + u + update(path, u), bias, weights

            module.forward = types.MethodType(forward, module)
    ours = model.run(adapted, torch.float64)
    torch.testing.assert_close(ours, model.run(reference, torch.float64), rtol=1e-10, atol=1e-11)
    assert used == by_path.keys()
    assert (ours - model.base_output(torch.float64)).abs().max() > 1e-3


def test_sizes_matrices_and_activations():
    model = MODELS["bert"]
    for fields, inner, count in (
        ({}, 1, None),  # 24 / 16, at least one
        ({"reduction_factor": 2.5}, 9, 4 * (2 * 24 * 9 + 9 + 24)),
        ({"bottleneck_size": 6, "use_bias": False}, 6, 4 * 2 * 24 * 6),
        ({"bottleneck_size": 6, "matrix": "circulant"}, 6, 4 * (2 * 2 * 24 * 6 // 6 + 6 + 24)),
        (
            {"bottleneck_size": 6, "down_matrix": {"name": "low_rank", "rank": 2}},
            6,
            4 * (2 * (24 + 6) + 24 * 6 + 6 + 24),
        ),
        ({"bottleneck_size": 6, "up_matrix": "vera"}, 6, 4 * (24 * 6 + 24 + 256 + 6 + 24)),
    ):
        adapted = get_peft_model(model.build(), BottleneckConfig(**fields))
        total = sum(p.numel() for p in trained(adapted).values())
        assert total == (count or 4 * (2 * 24 * inner + inner + 24)), fields
        assert torch.equal(model.run(adapted), model.base_output())
        scramble(adapted)
        assert all(
            g is not None and g.abs().max() > 0 for g in gradients(adapted, loss_of(model.run(adapted))).values()
        )
    adapted = get_peft_model(model.build(), BottleneckConfig(init_weights="bert"))
    assert not torch.equal(model.run(adapted), model.base_output())
    torch.testing.assert_close(
        model.run(adapted), model.base_output(), rtol=0.1, atol=0.1
    )  # near the base, as the paper asks


class Block(nn.Module):
    """Modules that return tuples, take the state by name, or hide their size."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, other, state=None, flag=False):
        assert flag
        return state * self.scale + other, "more"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.norm, self.fc = Block(), nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x, by_name=True):
        h, more = self.block(x, state=2 * x, flag=True) if by_name else self.block(x, 2 * x, flag=True)
        assert more == "more"
        return self.fc(self.norm(h))


@pytest.mark.parametrize("wiring", ["output", "norm", "input:1", "parallel:1"])
def test_modules_are_named_by_the_user(wiring, tmp_path):
    x = torch.randn(4, 6)
    name = "norm" if wiring == "norm" else "block"
    config = BottleneckConfig(target_modules={wiring: [name]}, bottleneck_size=2, hidden_size=6)
    torch.manual_seed(1)
    base = Net()
    twin = Net()
    twin.load_state_dict(base.state_dict())
    expected = base(x)
    adapted = get_peft_model(base, config)
    assert torch.equal(adapted(x), expected)
    scramble(adapted)
    a = hand_adapter(adapted.base_model.layers()[0].adapters["default"].params(), 1.0, F.gelu)
    h = 2 * x + x
    by_hand = {
        "output": lambda: h + a(h),
        "norm": lambda: h + a(twin.norm(h)),
        "input:1": lambda: 2 * x + a(2 * x) + x,
        "parallel:1": lambda: h + a(2 * x),
    }[wiring]()
    for by_name in (True, False):
        torch.testing.assert_close(adapted(x, by_name), twin.fc(twin.norm(by_hand)))
    adapted.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(twin, tmp_path)(x), adapted(x))


def test_a_state_and_its_linear_layer_can_both_be_adapted(tmp_path):
    """DistilBERT's Houlsby site is the output of a linear layer, which LoRA may adapt too: in either order, the adapter sees
    the layer's adapted output."""
    model = MODELS["distilbert"]
    hidden = ROWS["houlsby"].make(model)
    linear = LoraConfig(target_modules=["out_lin"], r=2)
    outputs = []
    for first, second in ((hidden, linear), (linear, hidden)):
        adapted = get_peft_model(model.build(), first, "linear" if first is linear else "hidden")
        adapted.add_adapter("linear" if second is linear else "hidden", second)
        for name in ("linear", "hidden"):
            adapted.set_adapter(name)
            scramble_by_name(adapted)
        adapted.set_adapter(["linear", "hidden"])
        outputs.append(model.run(adapted))
        adapted.save_pretrained(tmp_path)
        fresh = PeftModel.from_pretrained(model.build(), tmp_path / "linear", "linear")
        fresh.load_adapter(tmp_path / "hidden", "hidden")
        fresh.set_adapter(["hidden", "linear"])
        assert torch.equal(model.run(fresh), outputs[-1])
        adapted.delete_adapter("linear")
        assert not any("lora" in key for key in adapted.state_dict())
    assert torch.equal(*outputs)


def scramble_by_name(model):
    """The same numbers for the same file key, whatever the order of parameters."""
    for name, parameter in trained(model).items():
        key = re.sub(r"\.(base_layer|linear|hidden)", "", name)
        generator = torch.Generator().manual_seed(sum(map(ord, key)))
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def test_additive_updates_work_at_hidden_states_too():
    model = MODELS["bert"]
    adapted = get_peft_model(
        model.build(), veneer.AdditiveConfig(matrix="circulant", target_modules={"output": ["output.dropout"]})
    )
    assert torch.equal(model.run(adapted), model.base_output())
    scramble(adapted)
    assert not torch.equal(model.run(adapted), model.base_output())
    with pytest.raises(ValueError, match="an update of a hidden state has no weight to merge into"):
        adapted.merge_adapter()


@pytest.mark.parametrize("placement", PLACES)
def test_unknown_architectures_show_how_to_name_modules(placement):
    model = adapt(MODELS["bert"], ROWS["lora"]).unload()
    model.config.model_type = "unheard_of"
    with pytest.raises(
        ValueError,
        match=r"is known for bert, .*; this model is unheard_of\. Name the modules instead: .*output: u -> u \+ a\(u\)",
    ):
        get_peft_model(model, BottleneckConfig(placement=placement))


@pytest.mark.parametrize("wiring", ["output", "input", "parallel"])
def test_adapters_at_one_place_are_summed(wiring):
    config = veneer.AdditiveConfig(matrix={"name": "low_rank", "rank": 2}, target_modules={wiring: ["0"]})
    model = get_peft_model(nn.Sequential(nn.Linear(6, 6)), config, "one")
    model.add_adapter("two", config)
    x = torch.randn(4, 6)

    def with_adapters(*names):
        model.set_adapter(list(names))
        return model(x)

    with_adapters("one", "two")
    scramble(model)
    with model.disable_adapter():
        base = model(x)
    expected = with_adapters("one") + with_adapters("two") - base
    torch.testing.assert_close(with_adapters("one", "two"), expected)
    torch.testing.assert_close(with_adapters("two", "one"), expected)
