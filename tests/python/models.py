# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The table that the model suites walk: small models of every kind we claim to support, and the methods as users
configure them. A new method is one more row of ROWS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd
from typing import Any

import pytest
import torch
from torch import nn

import veneer


class Mlp(nn.Module):
    """Odd, prime and rectangular sizes, with and without bias; used with names of our own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(15, 9)
        self.norm = nn.LayerNorm(9)
        self.second = nn.Linear(9, 21, bias=False)
        self.third = nn.Linear(21, 7)
        self.fourth = nn.Linear(7, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        h = torch.tanh(self.norm(self.first(x)))
        h = torch.tanh(self.third(torch.tanh(self.second(h))))
        return self.head(h + self.fourth(h))


def bert(**changes):
    from transformers import BertConfig, BertForSequenceClassification

    config = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 37,
        "max_position_embeddings": 16,
        "num_labels": 3,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertForSequenceClassification(BertConfig(**{**config, **changes}))


def roberta(**changes):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 37,
        "max_position_embeddings": 20,
        "num_labels": 3,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return RobertaForSequenceClassification(RobertaConfig(**{**config, **changes}))


def distilbert():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    return DistilBertForSequenceClassification(
        DistilBertConfig(
            dim=24,
            n_layers=2,
            n_heads=3,
            hidden_dim=40,
            vocab_size=37,
            max_position_embeddings=16,
            num_labels=3,
            initializer_range=0.2,
            dropout=0.0,
            attention_dropout=0.0,
            seq_classif_dropout=0.0,
        )
    )


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            image_size=8,
            patch_size=4,
            num_channels=1,
            num_labels=3,
            initializer_range=0.2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=24,
            n_layer=2,
            n_head=3,
            n_inner=40,
            n_positions=16,
            vocab_size=37,
            initializer_range=0.2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=40,
            vocab_size=37,
            max_position_embeddings=16,
            initializer_range=0.2,
            use_cache=False,
        )
    )


def t5():
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            d_model=24,
            d_kv=8,
            d_ff=40,
            num_layers=1,
            num_heads=3,
            vocab_size=37,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            initializer_factor=0.5,
            use_cache=False,
        )
    )


def tokens(rows=3, length=7):
    return {"input_ids": torch.randint(3, 37, (rows, length), generator=torch.Generator().manual_seed(1))}


def both_tokens():
    return {**tokens(), "decoder_input_ids": tokens(3, 5)["input_ids"]}


def pixels(rows=3):
    return {"pixel_values": torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))}


def features(rows=5):
    return {"x": torch.randn(rows, 15, generator=torch.Generator().manual_seed(1))}


@dataclass(frozen=True)
class Model:
    """One small base model. `sites`: what the default targets are, counted by hand from the architecture, as
    (d_in, d_out) of linear layers and as the number of hidden states of size `hidden`."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, torch.Tensor]]
    query_value: list[tuple[int, int]]
    key_value: list[tuple[int, int]]
    feedforward: list[tuple[int, int]]
    hidden: int
    hidden_sites: dict[str, int]
    targets: dict[str, Any] = field(
        default_factory=dict
    )  # where there are no defaults: field of the configuration -> value

    def build(self, dtype=torch.float32):
        """The base, always with the same weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = self.make()
            for (
                parameter
            ) in model.parameters():  # transformers starts biases at zero, which would hide mistakes in them
                if parameter.dim() == 1:
                    parameter.data.add_(0.1 * torch.randn_like(parameter))
        return model.to(dtype).eval()

    def base_output(self, dtype=torch.float32):
        """What the frozen base gives. (Attention takes another kernel, with other roundings, where a bias of its needs a
        gradient, as in an unfrozen T5.)"""
        return self.run(self.build(dtype).requires_grad_(False), dtype)

    def run(self, model, dtype=torch.float32, **changes):
        """One forward; the logits."""
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in {**self.inputs(), **changes}.items()}
        out = model(**inputs)
        return out if isinstance(out, torch.Tensor) else out[0]


SQUARE = [(24, 24)]
MODELS = {
    model.name: model
    for model in (
        Model(
            "mlp",
            Mlp,
            features,
            [(15, 9), (9, 21), (7, 7)],
            [(15, 9), (9, 21)],
            [(21, 7)],
            9,
            {"houlsby": 1, "pfeiffer": 1, "parallel": 1},
            {
                "linear": ["first", "second", "fourth"],
                "ia3": ["first", "second", "third"],
                "feedforward": ["third"],
                "houlsby": {"output": ["first"]},
                "pfeiffer": {"norm": ["norm"]},
                "parallel": {"input": ["second"]},
            },
        ),
        Model(
            "bert",
            bert,
            tokens,
            SQUARE * 4,
            SQUARE * 4,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
        Model(
            "roberta",
            roberta,
            tokens,
            SQUARE * 4,
            SQUARE * 4,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
        Model(
            "distilbert",
            distilbert,
            tokens,
            SQUARE * 4,
            SQUARE * 4,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
        Model(
            "vit", vit, pixels, SQUARE * 4, SQUARE * 4, [(40, 24)] * 2, 24, {"houlsby": 4, "pfeiffer": 2, "parallel": 2}
        ),
        Model(
            "gpt2",
            gpt2,
            tokens,
            [(24, 72)] * 2,
            [(24, 72)] * 2,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
        Model(
            "llama",
            llama,
            tokens,
            [(24, 24), (24, 8)] * 2,
            [(24, 8)] * 4,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
        # Queries and values of three attentions: the encoder's, and the decoder's own and cross.
        Model(
            "t5",
            t5,
            both_tokens,
            SQUARE * 6,
            SQUARE * 6,
            [(40, 24)] * 2,
            24,
            {"houlsby": 4, "pfeiffer": 2, "parallel": 2},
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """One method as users configure it. `kind`: how it composes (and whether it has a weight to merge into)."""

    name: str
    config: Callable[..., Any]
    kind: str  # "additive", "scaling", "exclusive" (DoRA), "hidden"
    options: dict[str, Any]
    dropout: str | None  # its field for dropout
    count: Callable[[Model], int]  # trained parameters, by the papers' formulas
    targets: str = "linear"

    @property
    def mergeable(self):
        return self.kind != "hidden"

    def make(self, model: Model, **changes):
        """The configuration for a model: its default targets, or the names our own model needs."""
        where = {}
        if model.targets and "target_modules" not in changes:
            where["target_modules"] = model.targets[self.targets]
            if self.targets == "ia3":
                where["feedforward_modules"] = model.targets["feedforward"]
        return self.config(**copy.deepcopy({**self.options, **where, **changes}))


def linear_count(per_site):
    return lambda model: sum(per_site(d_in, d_out) for d_in, d_out in model.query_value)


def bottleneck_count(placement, inner):
    def count(model):
        m = model.hidden // inner
        return model.hidden_sites[placement] * (2 * model.hidden * m + m + model.hidden)

    return count


def lokr_count(d_in, d_out, r=2):
    """LoKr's: the sizes' most square factors, and rank r where that is less than half of the larger ones."""

    def factors(n):
        small = next(k for k in range(int(n**0.5), 0, -1) if n % k == 0)
        return small, n // small

    (i1, i2), (o1, o2) = factors(d_in), factors(d_out)
    return i1 * o1 + (r * (i2 + o2) if r < max(i2, o2) / 2 else i2 * o2)


def train_count(d_in, d_out):
    """Of two trains of rank 2, [d_in, 4] and [4, d_out], with the modes that the sizes of our models have."""
    modes = {4: [4], 7: [7], 8: [8], 9: [9], 15: [15], 21: [21], 24: [4, 6], 72: [6, 12]}

    def train(n, first):
        inner = [*modes[n], 4] if first else [4, *reversed(modes[n])]
        ranks = [1, *[2] * (len(inner) - 1), 1]
        return sum(k * left * right for k, left, right in zip(inner, ranks, ranks[1:], strict=False))

    return train(d_in, True) + train(d_out, False)


RANK = 3
ROWS = {
    row.name: row
    for row in (
        Row(
            "lora",
            veneer.LoraConfig,
            "additive",
            {"r": RANK, "lora_alpha": 5},
            "lora_dropout",
            linear_count(lambda i, o: RANK * (i + o)),
        ),
        Row(
            "circulant", veneer.SurmConfig, "additive", {}, "dropout", linear_count(lambda i, o: 2 * i * o // gcd(i, o))
        ),
        Row(
            "dora",
            veneer.LoraConfig,
            "exclusive",
            {"r": RANK, "lora_alpha": 5, "use_dora": True},
            "lora_dropout",
            linear_count(lambda i, o: RANK * (i + o) + o),
        ),
        Row(
            "dora_circulant",
            veneer.SurmConfig,
            "exclusive",
            {"use_dora": True},
            "dropout",
            linear_count(lambda i, o: 2 * i * o // gcd(i, o) + o),
        ),
        Row(
            "ia3",
            veneer.IA3Config,
            "scaling",
            {},
            None,
            lambda model: sum(o for _, o in model.key_value) + sum(i for i, _ in model.feedforward),
            "ia3",
        ),
        Row("vera", veneer.VeraConfig, "additive", {"r": 5}, "vera_dropout", linear_count(lambda i, o: o + 5)),
        Row(
            "dense", veneer.AdditiveConfig, "additive", {"matrix": "dense"}, "dropout", linear_count(lambda i, o: i * o)
        ),
        Row("lokr", veneer.LoKrConfig, "additive", {"r": 2, "alpha": 3}, None, linear_count(lokr_count)),
        Row(
            "more",
            veneer.MoreConfig,
            "additive",
            {"nblocks": 2, "blk_r": 3},
            "dropout",
            linear_count(lambda i, o: 6 * (-(-i // 2) - (-o // 2))),
        ),
        Row(
            "loretta",
            veneer.LorettaConfig,
            "additive",
            {"r": 4, "tensor_rank": 2},
            "dropout",
            linear_count(train_count),
        ),
        Row(
            "compacter",
            veneer.CompacterConfig,
            "hidden",
            {"bottleneck_size": 2, "phm_dim": 1},
            "dropout",
            lambda model: model.hidden_sites["houlsby"] * (2 * (model.hidden + 2) + model.hidden + 2) + 1,
            "houlsby",
        ),
        Row(
            "surm_adapter",
            veneer.SurmAdapterConfig,
            "hidden",
            {"structure": "symmetric_toeplitz"},
            "dropout",
            lambda model: model.hidden_sites["houlsby"] * 3 * model.hidden,
            "houlsby",
        ),
        *(
            Row(
                placement,
                veneer.BottleneckConfig,
                "hidden",
                {"placement": placement, "reduction_factor": 3},
                "dropout",
                bottleneck_count(placement, 3),
                placement,
            )
            for placement in ("houlsby", "pfeiffer", "parallel")
        ),
    )
}

EACH_MODEL = [pytest.param(model, id=model.name) for model in MODELS.values()]
EACH_ROW = [pytest.param(row, id=row.name) for row in ROWS.values()]
MERGEABLE = [pytest.param(row, id=row.name) for row in ROWS.values() if row.mergeable]
EVERY = [pytest.param(model, row, id=f"{model.name}-{row.name}") for model in MODELS.values() for row in ROWS.values()]


def adapt(model: Model, row: Row, dtype=torch.float32, **changes):
    """The base with one adapter of the row, always with the same start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return veneer.get_peft_model(model.build(dtype), row.make(model, **changes))


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def scramble(model, std=0.3, seed=5):
    """Moves every trained parameter: as after training, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def gradients(model, loss):
    """name -> gradient of every trained parameter."""
    names = trained(model)
    found = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    return dict(zip(names, found, strict=True))


def loss_of(output, seed=7):
    """A scalar that weighs every output differently."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output.dtype)
    return (output * weights).sum()


def assert_same(got, expected, **tolerances):
    """Two dictionaries of tensors agree, key by key: exactly, or within tolerances."""
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        if tolerances:
            torch.testing.assert_close(got[key], tensor, **tolerances, msg=lambda text, key=key: f"{key}: {text}")
        else:
            assert torch.equal(got[key], tensor), key
