# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled texts from files: TSV, CSV, JSON lines, or `<label> <text>` per line.

A folder is searched for files named after their split (train; dev, val or valid; test). A single file is divided.
Every problem is a DataError that names the file, the line and what was expected.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sklearn.model_selection import train_test_split

FORMATS = {".tsv": "tsv", ".csv": "csv", ".json": "jsonl", ".jsonl": "jsonl"}  # anything else: "labelled"
SPLITS = {"train": "train|training", "validation": "dev|val|valid|validation|devel", "test": "test"}
LABEL_COLUMNS = ["label", "labels", "class", "category", "target", "gold_label", "quality"]
TEXT_COLUMNS = [
    ["sentence1", "sentence2"],
    ["premise", "hypothesis"],
    ["question", "sentence"],
    ["question", "passage"],
    ["#1 string", "#2 string"],
    ["title", "description"],
    ["text"],
    ["sentence"],
    ["content"],
    ["question"],
]
NO_DATA = {".md", ".html", ".pdf", ".gz", ".zip"}  # lie in data folders, and are no data
SPLIT_SEED = 0  # splits are the same for every --seed, so that runs can be compared


class DataError(ValueError):
    """Something in the data or in what was asked of it; the message says what to do."""


@dataclass
class Example:
    """One text, or a pair of them, with its label."""

    texts: tuple[str, ...]
    label: str
    place: str  # file:line


@dataclass
class Columns:
    """Names, or 0-based numbers, of the columns to use; found by name where not given."""

    label: str | None = None
    text: list[str] | None = None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def read_file(path: Path, columns: Columns, kind: str | None = None) -> list[Example]:
    """All examples of one file, in order."""
    if not path.is_file():
        raise DataError(f"[data] {path} does not exist")
    kind = kind or FORMATS.get(path.suffix.lower(), "labelled")
    reader = {"labelled": _labelled, "jsonl": _json_lines, "csv": _table, "tsv": _table}[kind]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            examples = list(reader(path, file, columns, kind))
    except UnicodeDecodeError as error:
        raise DataError(f"[data] {path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except csv.Error as error:
        raise DataError(f"[data] {path} is not valid {kind.upper()}: {error}") from error
    if not examples:
        raise DataError(f"[data] {path} has no examples")
    return examples


def _labelled(path: Path, file: Iterable[str], _columns: Columns, _kind: str) -> Iterator[Example]:
    for number, line in enumerate(file, 1):
        label, _, text = line.strip().partition(" ")
        if not label:
            continue
        if not text.strip():
            raise DataError(
                f"[data] {path}:{number}: expected `<label> <text>`, got {line.strip()[:60]!r}; other formats are "
                f"known by their suffix ({', '.join(FORMATS)}) or by --format"
            )
        yield Example((text.strip(),), label, f"{path}:{number}")


def _json_lines(path: Path, file: Iterable[str], columns: Columns, _kind: str) -> Iterator[Example]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"[data] {path}:{number}: expected one JSON object per line: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"[data] {path}:{number}: expected a JSON object, got a {type(row).__name__}")
        label, texts = _choose(path, list(row), columns)
        yield Example(tuple(_text(row[t], path, number) for t in texts), str(row[label]), f"{path}:{number}")


def _text(value: object, path: Path, number: int) -> str:
    if not isinstance(value, str):
        raise DataError(f"[data] {path}:{number}: expected text, got {value!r}")
    return value


def _table(path: Path, file: Iterable[str], columns: Columns, kind: str) -> Iterator[Example]:
    # Tab-separated files do not quote, as GLUE's; comma-separated ones do.
    rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if kind == "tsv" else csv.reader(file)
    first = next(rows, None)
    if first is None:
        return
    numbered = columns.label is not None and columns.label.isdigit()
    if not numbered and columns.label is None and not {c.strip().lower() for c in first} & set(LABEL_COLUMNS):
        raise DataError(
            f"[data] {path} has no column called a label ({', '.join(LABEL_COLUMNS)}); its first row is {first}. "
            "Name the columns (--label-column, --text-column), by number from 0 if the file has no header"
        )
    names = [str(i) for i in range(len(first))] if numbered else [c.strip() for c in first]
    label, texts = _choose(path, names, columns)
    chosen = [names.index(name) for name in (label, *texts)]
    for number, row in enumerate([first] if numbered else [], 1):
        yield Example(tuple(row[i] for i in chosen[1:]), row[chosen[0]], f"{path}:{number}")
    for row in rows:
        if not row:
            continue
        if len(row) != len(names):
            raise DataError(
                f"[data] {path}:{rows.line_num}: expected {len(names)} columns ({', '.join(names)}), got {len(row)}"
            )
        yield Example(tuple(row[i] for i in chosen[1:]), row[chosen[0]], f"{path}:{rows.line_num}")


def _choose(path: Path, names: list[str], columns: Columns) -> tuple[str, list[str]]:
    """The label's and the texts' columns among `names`."""
    by_lower = {name.lower(): name for name in names}

    def there(name: str) -> str:
        if name not in names and name.lower() not in by_lower:
            raise DataError(
                f"[data] {path} has no column `{name}`; columns: {', '.join(names)}{did_you_mean(name, names)}"
            )
        return name if name in names else by_lower[name.lower()]

    label = columns.label if columns.label is not None else next((c for c in LABEL_COLUMNS if c in by_lower), None)
    texts = columns.text or next((c for c in TEXT_COLUMNS if all(t in by_lower for t in c)), None)
    if label is None or texts is None:
        what, option = ("label", "--label-column") if label is None else ("text", "--text-column")
        raise DataError(f"[data] {path}: which column is the {what}? Columns: {', '.join(names)}; choose with {option}")
    return there(label), [there(text) for text in texts]


def find_files(folder: Path, pattern: str) -> dict[str, Path]:
    """The files of a folder by split. Exactly one each; `train` is needed."""
    files = sorted(p for p in folder.glob(pattern) if p.is_file() and p.suffix.lower() not in NO_DATA)
    found = {}
    for split, words in SPLITS.items():
        named = [p for p in files if re.search(rf"(^|[^a-z])({words})([^a-z]|$)", p.name.lower())]
        if len(named) > 1:
            raise DataError(
                f"[data] {folder} has {len(named)} files for {split}: {', '.join(p.name for p in named)}; choose with "
                f"--files, for example --files '*{named[0].suffix}'"
            )
        if named:
            found[split] = named[0]
    if "train" not in found:
        names = ", ".join(p.name for p in files) or "nothing"
        raise DataError(
            f"[data] {folder} has no file with `train` in its name (found: {names}); give one file to have it divided"
        )
    return found


def load(
    data: Path,
    columns: Columns,
    *,
    kind: str | None = None,
    pattern: str = "*",
    validation: float = 0.1,
    test: float = 0.1,
) -> tuple[dict[str, list[Example]], list[Path]]:
    """Reads and divides.

    Args:
        data: a folder or a file.
        columns: which columns of tables and JSON to use.
        kind: format; None: by suffix.
        pattern: which files of a folder to look at.
        validation, test: fractions of the training file to set aside where there is no file for them (test: of a single
            file alone). Drawn stratified, and equally for every --seed.

    Returns:
        {"train", "validation", "test"?} -> examples, and the files they came from.
    """
    if not data.exists():
        raise DataError(f"[data] {data} does not exist")
    files = find_files(data, pattern) if data.is_dir() else {"train": data}
    splits = {split: read_file(path, columns, kind) for split, path in files.items()}
    known = Counter(e.label for e in splits["train"])
    if len(known) < 2:
        raise DataError(f"[data] expected at least two labels in {files['train']}, got only `{next(iter(known))}`")
    for split in ("validation", "test"):
        for example in splits.get(split, []):
            if example.label not in known:
                raise DataError(
                    f"[data] {example.place}: label `{example.label}` does not occur in {files['train']}; known: "
                    f"{', '.join(sorted_labels(known))}"
                )
    if "test" not in splits and data.is_file():
        splits["train"], splits["test"] = _divide(splits["train"], test, "test")
    if "validation" not in splits:
        splits["train"], splits["validation"] = _divide(splits["train"], validation, "validation")
    return splits, list(files.values())


def _divide(examples: list[Example], fraction: float, what: str) -> tuple[list[Example], list[Example]]:
    labels = [e.label for e in examples]
    aside = round(fraction * len(examples))
    if aside < 1 or aside >= len(examples):
        raise DataError(f"[data] cannot set {fraction:g} of {len(examples)} examples aside for {what}")
    counts = Counter(labels)
    even = min(counts.values()) > 1 and aside >= len(counts)  # else stratification is impossible
    kept, taken = train_test_split(
        examples, test_size=aside, random_state=SPLIT_SEED, stratify=labels if even else None
    )
    return kept, taken


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """In numerical order if all are integers, else in alphabetical order."""
    found = set(labels)
    return sorted(found, key=lambda label: (0, int(label), "") if all(map(_is_integer, found)) else (1, 0, label))


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text) is not None
