# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter configurations. The classes are made from the core's registry: names, types, defaults and help of the fields
stand once, in the C++ file of the method they belong to (HF PEFT's names where PEFT has the method). `config.pyi` is
written from the same registry by `python -m veneer stubs`, and a test holds it to that."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from veneer import _core
from veneer.names import listed, suggestion

CONFIG_NAME = "adapter_config.json"


class TaskType(str, enum.Enum):
    """What the model is for; decides which head modules are trained and saved beside the adapter."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


# Head modules that a task type implies, as in HF PEFT.
TASK_HEADS = {"SEQ_CLS": ["classifier", "score"], "TOKEN_CLS": ["classifier", "score"], "QUESTION_ANS": ["qa_outputs"]}


class PeftConfig:
    """Base of all configurations. Fields are checked as they are given: an unknown one, a wrong type or a value out of
    range is an error that says what was expected."""

    peft_type: ClassVar[str]
    is_prompt_learning: ClassVar[bool] = False  # asked by transformers' Trainer

    def __post_init__(self) -> None:
        if self.task_type is not None:
            known = [task.value for task in TaskType]
            task = getattr(self.task_type, "value", self.task_type)
            if task not in known:
                raise ValueError(
                    f"[{type(self).__name__}] task_type must be one of: {', '.join(known)}; got {task}{suggestion(str(task), known)}"
                )
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            value = getattr(self, name)
            if isinstance(value, (set, tuple, frozenset)):
                value = sorted(value, key=str)
                setattr(self, name, value)
            self._check_names(name, value)
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):  # which JSON cannot say
                raise ValueError(f"[{type(self).__name__}] {name} must be a finite number, got {value}")
        for name, value in json.loads(_core.check_config(json.dumps(self.to_dict()))).items():
            # The core's own reading (an integer given as 8.0, a matrix by its bare name) where it only normalises.
            if name in self.__dataclass_fields__ and name not in ("target_modules", "exclude_modules", "task_type"):
                setattr(self, name, value)

    def _check_names(self, field: str, value: Any) -> None:
        wired = field == "target_modules" and isinstance(value, dict)
        text = field != "modules_to_save"
        for names in value.values() if wired else [value]:
            strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
            if not (strings or names is None or (text and isinstance(names, str))):
                raise TypeError(
                    f"[{type(self).__name__}] {field} must be a list of names{' or a regular expression' if text else ''}, "
                    f"got {names!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """All fields and "peft_type", in JSON's types."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["task_type"] = getattr(self.task_type, "value", self.task_type)
        return {**values, "peft_type": self.peft_type}

    def save_pretrained(self, save_directory: str | os.PathLike, **changes: Any) -> None:
        """Writes `adapter_config.json`; `changes` override fields in the file alone. The old file stays whole on failure."""
        write_whole({Path(save_directory) / CONFIG_NAME: self.to_file(**changes)})

    def to_file(self, **changes: Any) -> bytes:
        """The content of `adapter_config.json`; `changes` override fields."""
        values = json.loads(_core.check_config(json.dumps({**self.to_dict(), **changes})))
        return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> PeftConfig:
        """Reads `adapter_config.json` from a folder (ours or HF PEFT's). A field of PEFT's that is not supported is
        refused only where its value would change something."""
        file = Path(path) / CONFIG_NAME if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"[veneer] expected a folder with {CONFIG_NAME}, got {path}")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"[veneer] {file} is not valid JSON: {error}") from error
        config = from_foreign(values)
        if not isinstance(config, cls):
            raise ValueError(f"[{cls.__name__}] {file} holds a {type(config).__name__}")
        return config


def from_foreign(values: dict[str, Any]) -> PeftConfig:
    """A configuration from a file's or HF PEFT's dictionary."""
    checked = json.loads(_core.check_config(json.dumps(values, default=list), True))
    return CONFIG_CLASSES[checked.pop("peft_type")](**checked)


def as_config(config: Any) -> PeftConfig:
    """One of ours as it is; an instance of an HF PEFT class converted."""
    if isinstance(config, PeftConfig):
        return config
    if hasattr(config, "to_dict") and hasattr(config, "peft_type"):
        values = config.to_dict()
        values["peft_type"] = getattr(config.peft_type, "value", config.peft_type)
        return from_foreign({k: getattr(v, "value", v) for k, v in values.items()})
    raise TypeError(
        f"[veneer] expected a configuration ({listed(c.__name__ for c in CONFIG_CLASSES.values())}), got {type(config).__name__}"
    )


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Writes files so that a failure leaves the old ones whole: all are on disk beside their targets before the first, in
    the order given, takes its target's place."""
    temporaries: dict[Path, str] = {}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporaries[path] = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporaries[path], 0o644)  # mkstemp's 0600 would make a shared adapter unreadable
        for path in files:
            os.replace(temporaries[path], path)
            del temporaries[path]
    finally:
        for temporary in temporaries.values():
            os.unlink(temporary)


def python_type(option: dict[str, Any]) -> str:
    """The type of a field in Python's words."""
    return option.get("annotation") or _PYTHON_TYPES.get(option["type"], "Any")


_PYTHON_TYPES = {
    "integer": "int",
    "number": "float",
    "flag": "bool",
    "text": "str",
    "matrix": "str | dict[str, Any]",
    "matrices": "list[str | dict[str, Any]]",
}


def _init(self, **values: Any) -> None:
    known = self.__dataclass_fields__
    for name in values:
        if name not in known:
            raise TypeError(
                f"[{type(self).__name__}] unknown field `{name}`; known: {listed(known, most=40)}{suggestion(name, known)}"
            )
    for name, field in known.items():
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        setattr(self, name, values.get(name, default))
    self.__post_init__()


def _make(peft_type: str, entry: dict[str, Any], common: list[dict[str, Any]]) -> type[PeftConfig]:
    options = [*entry["fields"], *common]
    fields = []
    for option in options:
        default = option["default"]
        mutable = isinstance(default, (dict, list))
        spec = (
            dataclasses.field(default_factory=lambda d=default: json.loads(json.dumps(d)))
            if mutable
            else dataclasses.field(default=default)
        )
        fields.append((option["name"], python_type(option), spec))
    rows = []
    for option in options:
        choices = f" One of: {', '.join(option['choices'])}." if option["choices"] else ""
        rows.append(
            f"    {option['name']} ({python_type(option)}, default {option['default']!r}): {option['help']}.{choices}"
        )
    doc = f"{entry['summary']}.\n\nFields:\n" + "\n".join(rows)
    namespace = {"peft_type": peft_type, "__doc__": doc, "__init__": _init, "__module__": __name__}
    return dataclasses.make_dataclass(entry["name"], fields, bases=(PeftConfig,), namespace=namespace, init=False)


def _make_all() -> dict[str, type[PeftConfig]]:
    registry = json.loads(_core.registry())
    return {kind: _make(kind, entry, registry["common_fields"]) for kind, entry in registry["configs"].items()}


CONFIG_CLASSES = _make_all()
globals().update({cls.__name__: cls for cls in CONFIG_CLASSES.values()})
__all__ = ["PeftConfig", "TaskType", *(cls.__name__ for cls in CONFIG_CLASSES.values())]
