# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Texts made from the registry: the methods reference and the type stub of `veneer.config`."""

from __future__ import annotations

import json
from typing import Any

from veneer import _core
from veneer.config import python_type


def _table(options: list[dict[str, Any]], word: str) -> list[str]:
    rows = [f"| {word} | type | default | |", "|---|---|---|---|"]
    for option in options:
        extent = ""
        if option["choices"]:
            extent = f" One of {', '.join(f'`{c}`' for c in option['choices'])}."
        elif option["minimum"] is not None or option["maximum"] is not None:
            low = "" if option["minimum"] is None else f" At least {option['minimum']:g}."
            extent = low + ("" if option["maximum"] is None else f" At most {option['maximum']:g}.")
        kind = python_type(option).replace("|", "\\|")
        default = json.dumps(option["default"]) if option["type"] == "any" else option["default"]
        text = option["help"].replace("|", "\\|")
        rows.append(f"| `{option['name']}` | {kind} | `{default}` | {text}.{extent} |")
    return rows if options else ["No options."]


def docs() -> str:
    """docs/methods.md: every method, structured matrix and configuration with its options, formula, count and source."""
    registry = json.loads(_core.registry())
    lines = [
        "# Methods reference",
        "",
        "Made from the registry by `python -m veneer docs`; do not edit. Symbols: W [d_out, d_in] is the frozen weight, x the "
        "layer's input, y its output, r a rank, m an inner size, d a hidden size.",
        "",
        "## Configurations",
        "",
        "Python's classes and the fields of `adapter_config.json`. All of them also have the fields under "
        "[Common fields](#common-fields).",
        "",
    ]
    for kind, entry in registry["configs"].items():
        lines += [
            f"### {entry['name']}",
            "",
            f"{entry['summary']}. `peft_type`: `{kind}`.",
            "",
            *_table(entry["fields"], "field"),
            "",
        ]
    lines += ["### Common fields", "", *_table(registry["common_fields"], "field"), ""]
    for title, key, intro in (
        (
            "Methods",
            "methods",
            "How a frozen layer is changed. `MethodConfig(method=..., options={...})` reaches each by its name.",
        ),
        (
            "Structured matrices",
            "matrices",
            "Families of d_out x d_in matrices: the update of a frozen weight "
            "(`AdditiveConfig(matrix=...)`), under DoRA (`use_dora=True`), or the layers of a bottleneck adapter "
            "(`BottleneckConfig(matrix=...)`).",
        ),
    ):
        lines += [f"## {title}", "", intro, ""]
        for name, entry in registry[key].items():
            lines += [
                f"### {name}",
                "",
                f"`{entry['summary']}`",
                "",
                f"- parameters: {entry['count']}",
                f"- source: {entry['source']}",
            ]
            lines += [f"- sites: {', '.join(entry['sites'])}"] if "sites" in entry else []
            lines += ["", *_table(entry["options"], "option"), ""]
    return "\n".join(lines)


def stubs() -> str:
    """python/veneer/config.pyi: the generated classes, as type checkers see them."""
    registry = json.loads(_core.registry())
    lines = [
        "# SPDX-FileCopyrightText: The Veneer authors",
        "# SPDX-License-Identifier: Apache-2.0",
        "# Made from the registry by `python -m veneer stubs`; do not edit.",
        "import enum",
        "import os",
        "from collections.abc import Mapping",
        "from pathlib import Path",
        "from typing import Any, ClassVar",
        "",
        "CONFIG_NAME: str",
        "TASK_HEADS: dict[str, list[str]]",
        "CONFIG_CLASSES: dict[str, type[PeftConfig]]",
        "",
        "class TaskType(str, enum.Enum):",
        *(
            f'    {name} = "{name}"'
            for name in ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
        ),
        "",
        "class PeftConfig:",
        "    peft_type: ClassVar[str]",
        "    is_prompt_learning: ClassVar[bool]",
        *(f"    {o['name']}: {python_type(o)}" for o in registry["common_fields"]),
        "    def to_dict(self) -> dict[str, Any]: ...",
        "    def save_pretrained(self, save_directory: str | os.PathLike[str], **changes: Any) -> None: ...",
        "    def to_file(self, **changes: Any) -> bytes: ...",
        "    @classmethod",
        "    def from_pretrained(cls, path: str | os.PathLike[str]) -> PeftConfig: ...",
        "",
        "def python_type(option: dict[str, Any]) -> str: ...",
        "def from_foreign(values: dict[str, Any]) -> PeftConfig: ...",
        "def as_config(config: Any) -> PeftConfig: ...",
        "def write_whole(files: Mapping[Path, bytes]) -> None: ...",
    ]
    for entry in registry["configs"].values():
        lines += ["", f"class {entry['name']}(PeftConfig):"]
        lines += [f"    {o['name']}: {python_type(o)}" for o in entry["fields"]]
        lines += ["    def __init__(", "        self,", "        *,"]
        lines += [
            f"        {o['name']}: {python_type(o)} = ..." + "," for o in [*entry["fields"], *registry["common_fields"]]
        ]
        lines += ["    ) -> None: ..."]
    return "\n".join(lines) + "\n"
