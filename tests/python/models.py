# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Small base models of every kind that we claim to support, which the model suites walk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn


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


# What BERT and RoBERTa have in common.
ENCODER = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 37,
    "num_labels": 3,
    "initializer_range": 0.2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert(**changes):
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**{**ENCODER, "max_position_embeddings": 16, **changes}))


def roberta(**changes):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(**{**ENCODER, "max_position_embeddings": 20, **changes}))


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


EACH_MODEL = [pytest.param(model, id=model.name) for model in MODELS.values()]
