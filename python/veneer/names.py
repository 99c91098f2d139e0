# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Naming modules: HF PEFT's matching rules, and errors that tell what was meant."""

import difflib
import re
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str]) -> str:
    """`"; did you mean `second`?"` for the closest of `known`, else an empty string."""
    close = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{name}`' for name in close)}?" if close else ""


def listed(items: Iterable[str], most: int = 12) -> str:
    """Comma-separated, cut after `most` with a count of the rest; "none" for nothing."""
    items = list(items)
    text = ", ".join(items[:most])
    return (text + (f", ... ({len(items) - most} more)" if len(items) > most else "")) or "none"


def expression(text: str) -> re.Pattern[str]:
    """A regular expression; ValueError says what is wrong with it."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"[veneer] expected a regular expression, got {text}: {error}") from error


def named(patterns: list[str] | str | None, path: str) -> bool:
    """Whether a module path is named: by a list, if it equals an item or ends in a dot and an item; by a string, if that
    regular expression matches the whole path."""
    if patterns is None:
        return False
    if isinstance(patterns, str):
        return expression(patterns).fullmatch(path) is not None
    return any(path == item or path.endswith("." + item) for item in patterns)


def tails(paths: Iterable[str]) -> list[str]:
    """The last components of paths, each once: what a user would have written in a list of names."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def block_of(path: str, pattern: list[str] | str | None) -> int | None:
    """The index of the path's block, as HF PEFT's layers_to_transform counts: in the list called `pattern` (any, without
    one)."""
    names = [pattern] if isinstance(pattern, str) else pattern
    found = None
    for name in names or [r"[^.]+"]:
        found = found or expression(rf".*?(?:^|\.){name}\.(\d+)(?:\.|$)").match(path)
    return int(found[1]) if found else None


def block_index(path: str) -> int:
    """The first number in a path: the index of its transformer block; -1 for none."""
    return next((int(part) for part in path.split(".") if part.isdigit()), -1)
