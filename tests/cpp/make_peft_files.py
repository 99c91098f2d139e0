# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/cpp/peft_files: adapters that Hugging Face PEFT made and saved for the twin of the C++ suites' Net, with an
input and PEFT's outputs. The C++ suite loads them. Run again only to add a case:

    python tests/cpp/make_peft_files.py
"""

import json
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).parent / "peft_files"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.LayerNorm(8)

    def forward(self, x):
        return x + self.second(nn.functional.gelu(self.first(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 3)
        setattr(self, "in", nn.Linear(12, 8))

    def forward(self, x):
        x = getattr(self, "in")(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


CONFIGS = {
    "lora": peft.LoraConfig(r=2, lora_alpha=3, target_modules=["in", "first"], modules_to_save=["head"]),
    "rslora_patterns": peft.LoraConfig(
        r=4,
        lora_alpha=3,
        use_rslora=True,
        target_modules="all-linear",
        exclude_modules=["head"],
        rank_pattern={"in": 2},
        alpha_pattern={"blocks.0.first": 5},
    ),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=r"blocks\.\d\.second", bias="all"),
    "lora_only": peft.LoraConfig(r=2, target_modules=["in", "second"], bias="lora_only", layers_to_transform=None),
    "ia3": peft.IA3Config(target_modules=["first", "second"], feedforward_modules=["second"]),
    "vera": peft.VeraConfig(r=3, target_modules=["in", "first"]),
    "vera_redrawn": peft.VeraConfig(r=3, target_modules=["in", "first"], save_projection=False, projection_prng_key=5),
}


def main():
    torch.manual_seed(0)
    base = Net()
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    x = torch.randn(5, 12)
    FOLDER.mkdir(exist_ok=True)
    tensors = {"x": x, **{f"base.{name}": tensor for name, tensor in weights.items()}}
    for name, config in CONFIGS.items():
        net = Net()
        net.load_state_dict(weights)
        model = peft.get_peft_model(net, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, 0.5, 0.3)
        model.eval().save_pretrained(FOLDER / name)
        (FOLDER / name / "README.md").unlink()
        path = FOLDER / name / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n")
        tensors[f"y.{name}"] = model(x).detach()
    save_file(tensors, FOLDER / "tensors.safetensors", {"peft": peft.__version__, "torch": torch.__version__})


if __name__ == "__main__":
    main()
