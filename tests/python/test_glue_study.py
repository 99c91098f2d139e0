# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The GLUE study: its data and metrics, its contenders' sizes, and that it goes on where it stopped."""

import importlib
import json
import sys

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

MODULES = ("glue", "study", "glue_data", "glue_report")
SIZES = {  # train and held out together, judged, share of label 1 among the former
    "rte": (2490, 277, 1249 / 2490),
    "mrpc": (3576, 1725, 2407 / 3576),
    "stsb": (5749, 1379, None),
    "cola": (8551, 1043, 6023 / 8551),
}


@pytest.fixture
def glue(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "examples" / "python"))
    yield importlib.import_module("glue")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("task", SIZES)
def test_parts_of_a_task(glue, shared_data, task):
    trained, judged, positive = SIZES[task]
    parts = glue.load_task(shared_data, task, 128, 0.1, 0)
    assert (len(parts.train) + len(parts.held_out), len(parts.judged)) == (trained, judged)
    assert len(parts.held_out) == round(0.1 * trained)
    assert max(len(row["input_ids"]) for row in [*parts.train, *parts.judged]) <= 128
    labels = [row["labels"] for row in [*parts.train, *parts.held_out]]
    if positive is None:
        assert (min(labels), max(labels)) == (-1, 1)
    else:
        assert set(labels) == {0, 1}
        assert sum(labels) == round(positive * trained)
        share = sum(row["labels"] for row in parts.held_out) / len(parts.held_out)
        assert share == pytest.approx(positive, abs=0.002)  # drawn by label
    few = glue.load_task(shared_data, task, 128, 0.1, 100)
    assert len(few.train) == 100
    assert few.held_out == parts.held_out


def test_a_wrong_label_is_named(glue, tmp_path):
    data = importlib.import_module("glue_data")
    path = tmp_path / "train.tsv"
    path.write_text("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tperhaps\n")
    with pytest.raises(data.DataError, match=r"train.tsv:2: expected not_entailment or entailment .* got 'perhaps'"):
        data.rows_of(data.TASKS["rte"], path, 128)
    path = tmp_path / "train.csv"
    path.write_text("A.,B.,5.5\n")
    with pytest.raises(data.DataError, match=r"train.csv:1: expected a score from 0 to 5 as label, got '5.5'"):
        data.rows_of(data.TASKS["stsb"], path, 128)


def test_metrics(glue):
    true, predicted = [0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 1]
    assert glue.score("rte", true, predicted) == accuracy_score(true, predicted)
    assert glue.score("mrpc", true, predicted) == f1_score(true, predicted)
    assert glue.score("cola", true, predicted) == matthews_corrcoef(true, predicted)
    # Spearman's is Pearson's of the ranks.
    x, y = torch.tensor([0.1, 0.4, 0.2, 0.9]), torch.tensor([1.0, 3.0, 4.0, 20.0])
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double()
    assert glue.score("stsb", x.tolist(), y.tolist()) == pytest.approx(torch.corrcoef(ranks)[0, 1].item())
    assert glue.score("stsb", [0.0, 1.0], [0.5, 0.5]) == 0


def test_sizes_of_the_contenders(glue):
    d, places = 384, 12
    assert glue.count("linear_probe") == 0
    for structure in ("circulant", "symmetric_toeplitz", "kronecker"):
        side = (24 * 16 + 24 * 16) if structure == "kronecker" else 2 * d
        assert glue.count(f"surm_{structure}") == places * (side + d)
    for size in (1, 18):
        assert glue.count(f"bottleneck_{size}") == places * (2 * d * size + size + d)
    assert glue.count("bottleneck_18") / glue.count("surm_circulant") == pytest.approx(12, rel=0.05)


def test_learning_rates_are_tried_until_the_best_has_neighbours(glue):
    protocol, runs = glue.Protocol(), {}
    tried = []
    while missing := list(glue.wanted(protocol, runs, "rte", "lora")):
        for run in missing:
            tried.append((run.stage, run.rate))
            runs[run.key] = {"score": -abs(run.rate - 0.1)}
    tuned = [rate for stage, rate in tried if stage == "tune"]
    assert tuned == [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    assert [rate for stage, rate in tried if stage == "test"] == [0.1] * len(protocol.seeds)


def test_a_stopped_study_goes_on(glue, shared_data, tmp_path, capsys):
    arguments = ["--quick", "--data", str(shared_data), "--out", str(tmp_path / "study"), "--tasks", "cola"]
    arguments += ["--contenders", "linear_probe", "surm_circulant"]
    assert glue.main([*arguments, "--hours", "0"]) == 0
    assert "time is up" in capsys.readouterr().out
    assert "-" in (tmp_path / "study.md").read_text()
    assert glue.main(arguments) == 0
    first = json.loads((tmp_path / "study.json").read_text())
    assert {key.split()[1] for key in first["runs"]} == {"linear_probe", "surm_circulant"}
    assert glue.main([*arguments, "bottleneck_1"]) == 0
    second = json.loads((tmp_path / "study.json").read_text())
    assert {key: second["runs"][key] for key in first["runs"]} == first["runs"]
    assert len(second["runs"]) == len(first["runs"]) * 3 // 2
    (tmp_path / "study.md").unlink()
    assert glue.main(["--render", "--out", str(tmp_path / "study")]) == 0
    page = (tmp_path / "study.md").read_text()
    assert "SURM adapter, circulant" in page
    assert "RTE" not in page
    assert "LoRA" not in page
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_a_study_has_its_results_alone(glue, shared_data, tmp_path, capsys):
    study = importlib.import_module("study")
    arguments = ["--quick", "--hours", "0", "--data", str(shared_data), "--out", str(tmp_path / "study")]
    with study.only_writer(tmp_path / "study.json"):
        assert glue.main([*arguments, "--tasks", "rte"]) == 2
    assert "another command is writing" in capsys.readouterr().err
    assert not (tmp_path / "study.json").exists()
    assert glue.main([*arguments, "--tasks", "rte"]) == 0


def test_a_study_does_not_mix_protocols(glue, tmp_path, capsys):
    content = {"protocol": {"epochs": 1}, "model": "", "data": {}, "counts": {}, "runs": {}}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert glue.main(["--quick", "--out", str(tmp_path / "study")]) == 2
    assert "is of another protocol" in capsys.readouterr().err
    assert glue.main(["--render", "--out", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
