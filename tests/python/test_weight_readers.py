# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Modules that read the weights below them instead of calling the layers: an adapter acts there, or is refused with the reason."""

import copy

import pytest
import torch
from checks import gradients, loss_of, scramble, trained
from models import MODELS
from rows import MERGEABLE
from test_layers import D_IN, D_OUT
from torch import nn
from torch.nn import functional as F

import veneer
from veneer import BottleneckConfig, LoraConfig, get_peft_model


def encoder(dropout=0.0):
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(D_IN, 4, D_OUT, dropout=dropout, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def attention():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.attention = nn.MultiheadAttention(D_IN, 4, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    return Attention()


READERS = {
    "encoder": (encoder, ["linear1", "linear2"]),
    "attention": (attention, ["out_proj"]),
    "both": (encoder, ["linear1", "linear2", "out_proj"]),
}


@pytest.fixture
def fast_path(monkeypatch):
    """Counts how often torch's fused kernels, which read weights, ran."""
    calls = []
    for name in ("_transformer_encoder_layer_fwd", "_native_multi_head_attention"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, _f=original, **kw: (calls.append(1), _f(*args, **kw))[1])
    return calls


@pytest.mark.parametrize("row", MERGEABLE)
@pytest.mark.parametrize("reader", READERS)
def test_adapters_act_below_modules_that_read_weights(reader, row, fast_path):
    make, targets = READERS[reader]
    changes = {"feedforward_modules": ["linear2"] if "linear2" in targets else []} if row.name == "ia3" else {}
    x = torch.randn(2, 5, D_IN)
    base = make().eval()
    with torch.no_grad():
        expected = base(x)
    assert fast_path  # the trap is really there
    adapted = get_peft_model(base, row.make(MODELS["mlp"], target_modules=targets, **changes))
    with torch.no_grad():
        assert torch.equal(adapted(x), expected)
    scramble(adapted)
    merged = copy.deepcopy(adapted).merge_and_unload().requires_grad_(False)
    reference = merged(x)
    assert (reference - expected).abs().max() > 1e-3
    for training in (True, False):
        adapted.train(training)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(adapted(x), reference, rtol=1e-5, atol=1e-5)
    fast_path.clear()
    with torch.no_grad():
        adapted(x)
    assert fast_path
    # Where it is read, the gradient flows through the effective weight.
    adapted.train()
    adapted.double()
    names = trained(adapted)
    loss = loss_of(adapted(x.double()))
    found = torch.autograd.grad(loss, list(names.values()))
    direction = [torch.randn_like(p) for p in names.values()]
    slope = sum((g * d).sum() for g, d in zip(found, direction, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            for p, d in zip(names.values(), direction, strict=True):
                p.add_(d, alpha=step)
            values.append(loss_of(adapted(x.double())))
    measured = (values[0] - values[1]) / 2e-6
    if row.kind != "exclusive":  # DoRA stops the gradient at its norm
        torch.testing.assert_close(slope, measured, rtol=1e-5, atol=1e-6)
    assert all(g.abs().max() > 0 for g in found)
    reads = [r.reason for r in adapted.explain()]
    assert all("read as a weight" in reason or "base is a" in reason for reason in reads)


class Reader(nn.Module):
    """A model of a user's that reads the tensors of its layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(D_IN, D_OUT)

    def forward(self, x):
        return F.linear(x.to(self.fc.weight.dtype), self.fc.weight, self.fc.bias)


@pytest.mark.parametrize("row", MERGEABLE)
def test_adapters_act_where_any_module_reads_the_weight(row):
    changes = {"feedforward_modules": []} if row.name == "ia3" else {}
    x = torch.randn(4, D_IN)
    expected = Reader()(x)
    adapted = get_peft_model(Reader(), row.make(MODELS["mlp"], target_modules=["fc"], **changes))
    assert torch.equal(adapted(x), expected)
    state = set(adapted.state_dict())
    scramble(adapted)
    called = adapted.base_model.model.fc(x)
    assert (called - expected).abs().max() > 1e-3
    for training in (True, False):
        adapted.train(training)
        torch.testing.assert_close(adapted(x), called, rtol=1e-5, atol=1e-5)
        read, direct = (gradients(adapted, loss_of(f(x))) for f in (adapted, adapted.base_model.model.fc))
        for name, gradient in direct.items():
            torch.testing.assert_close(read[name], gradient, rtol=1e-4, atol=1e-5)
            assert gradient.abs().max() > 0
    torch.testing.assert_close(copy.deepcopy(adapted)(x), called, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.compile(adapted, backend="eager")(x), called, rtol=1e-5, atol=1e-5)
    assert set(adapted.state_dict()) == state
    with adapted.disable_adapter():
        assert torch.equal(adapted(x), expected)
    adapted.merge_adapter()
    torch.testing.assert_close(adapted(x), called, rtol=1e-5, atol=1e-5)
    adapted.train()
    with pytest.raises(RuntimeError, match=r"merged into fc, where training would not reach it"):
        adapted(x)


def test_training_while_merged_is_refused_where_the_weight_is_read():
    adapted = scramble(get_peft_model(attention(), LoraConfig(target_modules=["out_proj"])))
    x = torch.randn(2, 5, D_IN)
    adapted.merge_adapter()
    adapted.eval()(x)
    adapted.train()
    with pytest.raises(RuntimeError, match=r"merged into attention.out_proj, where training would not reach it"):
        adapted(x)


def test_the_type_of_a_weight_is_read_by_t5():
    model = MODELS["t5"]
    adapted = scramble(get_peft_model(model.build(), LoraConfig(target_modules=["wo", "q"])))
    layer = adapted.get_base_model().encoder.block[0].layer[1].DenseReluDense.wo
    assert (layer.weight.dtype, layer.weight.device) == (torch.float32, torch.device("cpu"))
    assert all(g is not None and g.abs().max() > 0 for g in gradients(adapted, loss_of(model.run(adapted))).values())


def test_what_a_reader_would_skip_is_refused():
    @veneer.method("test_forward_only")
    class ForwardOnly(veneer.Method):
        def parameters(self, d_out, d_in):
            return {"s": veneer.ones(d_out)}

        def forward(self, x, y, W, b, p):
            return y * p["s"]

    only = {"method": "test_forward_only", "target_modules": ["linear1"]}
    for make, config, message in (
        (
            encoder,
            BottleneckConfig(target_modules={"output": ["dropout1"]}, hidden_size=D_IN),
            r"TransformerEncoderLayer \(in eval mode\) reads",
        ),
        (encoder, veneer.MethodConfig(**only), r"TransformerEncoderLayer \(in eval mode\) reads"),
        (
            attention,
            LoraConfig(target_modules=["out_proj"], lora_dropout=0.1),
            "nn.MultiheadAttention reads .* set the dropout to 0",
        ),
        (
            attention,
            LoraConfig(target_modules=["attention"]),
            "expected linear layers .* got attention, a MultiheadAttention; below it: out_proj",
        ),
    ):
        model = make()
        names = [(n, type(m)) for n, m in model.named_modules()]
        with pytest.raises(ValueError, match=message):
            get_peft_model(model, config)
        assert [(n, type(m)) for n, m in model.named_modules()] == names
    # A whole encoder layer is called by its parent, so a hidden site at its output acts.
    x = torch.randn(2, 5, D_IN)
    adapted = get_peft_model(
        encoder().eval(), BottleneckConfig(target_modules={"output": ["layers.0", "layers.1"]}, hidden_size=D_IN)
    )
    with torch.no_grad():
        start = adapted(x)
        torch.testing.assert_close(start, encoder().eval()(x))
        assert not torch.equal(scramble(adapted)(x), start)
