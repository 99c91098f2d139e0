# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The picture study: it goes on where it stopped, holds every entry to its budget, and its page can be made again."""

import importlib
import json
import sys

import pytest


@pytest.fixture
def images(root, shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "examples" / "python"))
    yield importlib.import_module("images")
    for name in ("images", "study", "image_data", "image_models", "image_report"):
        sys.modules.pop(name, None)


def test_a_stopped_study_goes_on(images, shared_data, tmp_path, capsys):
    common = ["--quick", "--workers", "1", "--data", str(shared_data), "--cache", str(tmp_path / "cache")]
    arguments = [
        *common,
        "--out",
        str(tmp_path / "study"),
        "--tasks",
        "mnist",
        "--families",
        "linear_probe",
        "low_rank",
    ]
    assert images.main([*arguments, "--hours", "0"]) == 0
    assert "time is up" in capsys.readouterr().out
    assert images.main([*arguments, "toeplitz"]) == 0
    first = json.loads((tmp_path / "study.json").read_text())
    assert {key.split()[1] for key in first["runs"]} == {"linear_probe", "low_rank", "toeplitz"}
    for entry, count in first["counts"].items():
        family, budget = entry.split()
        assert family in images.BASELINES or count <= int(budget) * images.WIDTH
    assert images.main([*arguments, "toeplitz"]) == 0
    assert json.loads((tmp_path / "study.json").read_text())["runs"] == first["runs"]
    (tmp_path / "study.md").unlink()
    assert images.main(["--render", "--out", str(tmp_path / "study")]) == 0
    assert "low rank" in (tmp_path / "study.md").read_text()
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_a_study_does_not_mix_protocols(images, tmp_path, capsys):
    (tmp_path / "study.json").write_text(json.dumps({"protocol": {"steps": 1}, "base": {}, "counts": {}, "runs": {}}))
    assert images.main(["--quick", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "study")]) == 2
    assert "is of another study" in capsys.readouterr().err
