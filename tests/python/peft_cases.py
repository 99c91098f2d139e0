# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The configurations that both Hugging Face PEFT and we have, and models with equal parameters."""

import warnings

import pytest
import torch
from checks import loss_of, scramble
from models import MODELS

import veneer

peft = pytest.importorskip("peft")

WEIGHTS = "adapter_model.safetensors"
LINEAR = {
    "mlp": ["first", "second", "third"],
    "bert": ["query", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "c_fc", "mlp.c_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
}
IA3 = {
    "mlp": (["first", "second", "third"], ["third"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
}


def lora(**fields):
    return lambda model: ("LoraConfig", {"target_modules": LINEAR[model], "r": 3, "lora_alpha": 5, **fields})


CONFIGS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "lora gaussian": lora(init_lora_weights="gaussian"),
    "lora patterns": lambda model: lora(rank_pattern={LINEAR[model][0]: 2}, alpha_pattern={LINEAR[model][1]: 7})(model),
    "lora all biases": lora(bias="all"),
    "lora own biases": lora(bias="lora_only"),
    "dora": lora(use_dora=True),
    "dora rslora": lora(use_dora=True, use_rslora=True),
    "ia3": lambda model: ("IA3Config", {"target_modules": IA3[model][0], "feedforward_modules": IA3[model][1]}),
    "lokr": lambda model: ("LoKrConfig", {"target_modules": LINEAR[model], "r": 2, "alpha": 3}),
    "lokr whole": lambda model: ("LoKrConfig", {"target_modules": LINEAR[model], "r": 40, "init_weights": False}),
    "lokr both": lambda model: (
        "LoKrConfig",
        {"target_modules": LINEAR[model], "r": 1, "decompose_both": True, "decompose_factor": 3},
    ),
    "vera": lambda model: ("VeraConfig", {"target_modules": LINEAR[model], "r": 5, "projection_prng_key": 3}),
}
# PEFT's VeRA stops with an error where the sizes of GPT-2's layers, stored transposed, differ; its LoKr has no such layers.
EACH = [
    pytest.param(model, name, id=f"{model}-{name}")
    for model in LINEAR
    for name in CONFIGS
    if model != "gpt2" or not name.startswith(("vera", "lokr"))
]


def configs(model, name, **changes):
    """(ours, theirs)"""
    kind, fields = CONFIGS[name](model)
    fields = {**fields, **changes}
    transposed = {"fan_in_fan_out": True} if model == "gpt2" else {}
    return getattr(veneer, kind)(**fields), getattr(peft, kind)(**fields, **transposed)


def theirs_of(model, config, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's own
        torch.manual_seed(4)
        return scramble(peft.get_peft_model(MODELS[model].build(dtype), config).eval(), std=0.2)


def ours_from(folder, model, dtype, config=None):
    return veneer.PeftModel.from_pretrained(MODELS[model].build(dtype), folder, is_trainable=True, config=config)


def file_gradients(model):
    """Gradients by the keys of the files."""
    return {
        name.replace(".default", "").removesuffix(".weight")
        if "magnitude" in name
        else name.replace(".default", "").replace(".base_layer", ""): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def step(name, model, dtype, inputs=None):
    """(output, gradients of parameters by file key, gradient of the input): for tokens, that of the embeddings."""
    base = MODELS[name]
    model.zero_grad()
    given = {}
    if name == "mlp":
        given["x"] = base.inputs()["x"].to(dtype).requires_grad_()
    else:
        model.get_base_model().get_input_embeddings().weight.requires_grad_(True)
    output = base.run(model, dtype, **given)
    loss_of(output).backward()
    found = file_gradients(model)
    if name == "mlp":
        return output.detach(), found, given["x"].grad
    key = next(k for k in found if "word_embeddings" in k or "wte" in k or "embed_tokens" in k)
    return output.detach(), found, found.pop(key)
