# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/quickstart.py, run as users run it, fast."""

import csv
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))
quickstart = importlib.import_module("quickstart")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The output folder of a fast run and what it printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, EXAMPLES / "quickstart.py", "--output", folder, "--fast", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_metrics(quick):
    folder, _ = quick
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == ["methods"]
    rows = {row["name"]: row for row in metrics["methods"]}
    assert list(rows) == ["linear_probe", "full", "lora", "circulant", "bottleneck"]
    for row in rows.values():
        assert set(row) == {"name", "trainable", "total", "accuracy", "step_ms", "saved_mib"}
        assert 0 <= row["accuracy"] <= 1
        assert row["step_ms"] > 0
        assert row["saved_mib"] > 0
    head = 96 * 5 + 5
    assert rows["linear_probe"]["trainable"] == head
    assert rows["full"]["trainable"] == rows["full"]["total"]
    # Per layer four 96 x 96 matrices and one each of 96 x 192 and 192 x 96.
    assert rows["lora"]["trainable"] == head + 4 * 4 * (4 * (96 + 96) + 2 * (96 + 192))
    assert rows["circulant"]["trainable"] == head + 4 * 2 * (4 * 96 + 2 * 192)
    assert rows["bottleneck"]["trainable"] == head + 4 * 2 * (2 * 96 * 12 + 12 + 96)
    assert rows["linear_probe"]["saved_mib"] < rows["bottleneck"]["saved_mib"] < rows["full"]["saved_mib"]


def test_files(quick):
    folder, printed = quick
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "digits.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    digits = load_digits()
    assert len(rows) == len(digits.target) == 1797
    assert sum(int(row[f"p{i}"]) for row in rows for i in range(64)) == digits.data.sum()
    for row in rows:
        assert (int(row["label"]) < 5) == row["split"].startswith("base_")
    assert {row["split"] for row in rows} == {"base_train", "base_test", "new_train", "new_test"}
    for name in quickstart.ADAPTERS:
        assert {p.name for p in (folder / "adapters" / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        assert f"{name:<12} 269 of 269 predictions the same" in printed  # found so by a second process


def test_check_sees_another_adapter(quick, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(quick[0], folder)
    assert quickstart.check(folder)
    weights = folder / "adapters" / "lora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(key for key in tensors if key.endswith("classifier.bias"))
    tensors[key] = torch.arange(5.0).flip(0) * 100
    save_file(tensors, weights)
    assert not quickstart.check(folder)


def test_repeats_by_seed(quick):
    data = quickstart.read_digits(quick[0] / "digits.csv")["base_train"]
    data = data[0][:128], data[1][:128]

    def trained(seed):
        torch.manual_seed(seed)
        model = quickstart.adapted(quickstart.new_model(), "circulant", seed)
        with quickstart.Progress(disable=True) as progress:
            quickstart.train(model, data, 1e-2, 3, seed, progress, "")
        return torch.cat([p.detach().flatten() for p in quickstart.trained(model)])

    assert torch.equal(trained(3), trained(3))
    assert not torch.equal(trained(3), trained(4))
