# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Held to Hugging Face PEFT: with equal parameters, equal outputs and gradients."""

import pytest
import torch
from models import MODELS
from peft_cases import EACH, configs, ours_from, peft, step, theirs_of
from torch import nn

import veneer

ops = torch.ops.veneer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("model", "name"), EACH)
def test_outputs_and_gradients_are_peft_s(model, name, dtype, tmp_path):
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    theirs = theirs_of(model, configs(model, name)[1], dtype)
    theirs.save_pretrained(tmp_path)
    ours = ours_from(tmp_path, model, dtype)
    for training in (False, True):
        got, expected = step(model, ours.train(training), dtype), step(model, theirs.train(training), dtype)
        torch.testing.assert_close(got[0], expected[0], **tolerance)
        assert got[1].keys() == expected[1].keys()
        for key, gradient in expected[1].items():
            assert gradient.abs().max() > 0, key
            scale = max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(
                got[1][key] / scale, gradient / scale, **tolerance, msg=lambda text, key=key: f"{key}: {text}"
            )
        scale = max(1.0, expected[2].abs().max().item())
        torch.testing.assert_close(got[2] / scale, expected[2] / scale, **tolerance)
    assert not torch.equal(got[0], MODELS[model].base_output(dtype))


@pytest.mark.parametrize(("model", "name"), EACH)
def test_bfloat16_error_is_at_most_twice_peft_s(model, name, tmp_path):
    """Against float64 with the same rounded base. Norms, since a single element of PEFT's may be right by chance."""
    theirs = theirs_of(model, configs(model, name)[1], torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = ours_from(tmp_path, model, torch.bfloat16)
    exact = ours_from(tmp_path, model, torch.bfloat16).double()
    if name == "vera":  # PEFT keeps its shared pair in bfloat16: compare on equal numbers
        exact.load_state_dict({k: v.double() for k, v in ours.state_dict().items()})
    reference = step(model, exact, torch.float64)
    got, expected = step(model, ours, torch.bfloat16), step(model, theirs, torch.bfloat16)

    def error(result):
        gradients = torch.cat([(result[1][k].double() - g).flatten() for k, g in reference[1].items()])
        return [
            (result[0].double() - reference[0]).norm(),
            gradients.norm(),
            (result[2].double() - reference[2]).norm(),
        ]

    norms = [reference[0].norm(), torch.cat([g.flatten() for g in reference[1].values()]).norm(), reference[2].norm()]
    for own, other, norm in zip(error(got), error(expected), norms, strict=True):
        assert own <= 2 * other + torch.finfo(torch.bfloat16).eps * norm


class OurMask(nn.Module):
    """PEFT's dropout with our mask: its seed drawn as our host draws it."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        return ops.seeded_dropout(x, torch.randint(0, 2**63 - 1, (1,)), self.p) if self.training else x


@pytest.mark.parametrize("name", ["lora", "dora", "vera"])
@pytest.mark.parametrize("model", ["mlp", "bert"])
def test_dropout_has_peft_s_meaning(model, name, tmp_path):
    """Given the same masks, training with dropout gives the same outputs and gradients; the other meaning that DoRA offers
    does not."""
    field = "vera_dropout" if name == "vera" else "lora_dropout"
    theirs = theirs_of(model, configs(model, name, **{field: 0.25})[1], torch.float64)
    theirs.save_pretrained(tmp_path)
    replaced = 0
    for module in theirs.modules():
        for dropouts in (getattr(module, "lora_dropout", {}), getattr(module, "vera_dropout", {})):
            if isinstance(dropouts, nn.ModuleDict) and "default" in dropouts:
                dropouts["default"] = OurMask(0.25)
                replaced += 1
    assert replaced
    ours = ours_from(tmp_path, model, torch.float64)
    torch.testing.assert_close(
        step(model, ours.eval(), torch.float64)[0], step(model, theirs.eval(), torch.float64)[0], rtol=1e-10, atol=1e-11
    )
    results = []
    for one in (ours, theirs):
        torch.manual_seed(8)
        results.append(step(model, one.train(), torch.float64))
    got, expected = results
    torch.testing.assert_close(got[0], expected[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-9, atol=1e-10)
    if name == "dora":
        config = configs(model, name, lora_dropout=0.25)[0]
        config.dora_dropout = "shared"
        torch.manual_seed(8)
        assert not torch.allclose(
            step(model, ours_from(tmp_path, model, torch.float64, config).train(), torch.float64)[0], expected[0]
        )


class Biased(nn.Module):
    """Biases of its own, of an attention, and of a layer."""

    def __init__(self):
        super().__init__()
        self.bias, self.scale_bias = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))
        self.attention, self.fc = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("make", "target"),
    [(MODELS["t5"].build, "q"), (MODELS["gpt2"].build, "c_attn"), (Biased, "fc")],
    ids=["t5", "gpt2", "own"],
)
def test_all_biases_are_peft_s(make, target):
    names = []
    for library in (veneer, peft):
        model = library.get_peft_model(make(), library.LoraConfig(target_modules=[target], bias="all"))
        names.append({n for n, p in model.named_parameters() if p.requires_grad})
    assert names[0] == names[1]
