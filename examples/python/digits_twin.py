# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The twin of examples/cpp/model.h: the same network with the same names, so that base weights and adapters of the C++
program load here and the other way round.

    python examples/python/digits_twin.py --base build/digits/base.safetensors --adapter build/digits/lora
    python examples/python/digits_twin.py --base build/digits/base.safetensors --train lora --save build/digits/from_python
"""

import argparse
import csv
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import veneer

ROWS, COLUMNS, SIZE, HEADS, DEPTH, CLASSES = 8, 8, 32, 4, 2, 10


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(SIZE)
        self.query, self.key, self.value, self.out = (nn.Linear(SIZE, SIZE) for _ in range(4))
        self.norm2 = nn.LayerNorm(SIZE)
        self.fc1, self.fc2 = nn.Linear(SIZE, 2 * SIZE), nn.Linear(2 * SIZE, SIZE)
        self.site = nn.Identity()  # where a bottleneck adapter may act: veneer::HiddenSite in C++

    def forward(self, x: Tensor) -> Tensor:
        def split(t):
            return t.unflatten(-1, (HEADS, SIZE // HEADS)).transpose(1, 2)

        h = self.norm1(x)
        mixed = F.scaled_dot_product_attention(split(self.query(h)), split(self.key(h)), split(self.value(h)))
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.site(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class DigitsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(COLUMNS, SIZE)
        self.position = nn.Parameter(0.02 * torch.randn(ROWS, SIZE))
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(SIZE)
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.unflatten(-1, (ROWS, COLUMNS))) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def base_net(weights: Path) -> DigitsNet:
    net = DigitsNet()
    net.load_state_dict(load_file(weights))
    return net.eval()


def read(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images [N, 64], 0 to 1, and labels [N] of one split of the CSV that `make quickstart` writes."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images = torch.tensor([[float(row[f"p{i}"]) for i in range(ROWS * COLUMNS)] for row in rows]) / 16
    return images, torch.tensor([int(row["label"]) for row in rows])


def config(method: str):
    targets = {"target_modules": ["query", "value", "fc1", "fc2"], "modules_to_save": ["head"]}
    if method == "lora":
        return veneer.LoraConfig(r=4, lora_dropout=0.1, **targets)
    if method == "circulant":
        return veneer.SurmConfig(structure="circulant", **targets)
    sites = {"output": [f"blocks.{i}.site" for i in range(DEPTH)]}
    return veneer.BottleneckConfig(reduction_factor=4, hidden_size=SIZE, target_modules=sites, modules_to_save=["head"])


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/quickstart/digits.csv"))
    parser.add_argument("--base", type=Path, required=True, help="base weights, as the C++ program saves them")
    parser.add_argument("--adapter", type=Path, help="load this adapter and print its accuracy")
    parser.add_argument("--train", choices=["lora", "circulant", "bottleneck"], help="train an adapter")
    parser.add_argument("--save", type=Path, help="and save it here")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()

    torch.manual_seed(0)
    if args.adapter:
        model = veneer.PeftModel.from_pretrained(base_net(args.base), args.adapter).eval()
    elif args.train:
        model = veneer.get_peft_model(base_net(args.base), config(args.train))
        model.print_trainable_parameters()
        train(model, *read(args.data, "new_train"), args.epochs)
        if args.save:
            model.save_pretrained(args.save)
    else:
        model = base_net(args.base)
    images, labels = read(args.data, "new_test")
    with torch.no_grad():
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    print(f"accuracy on new digits: {accuracy:.3f}")


if __name__ == "__main__":
    main()
