# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Documents and generated files say what the library does: snippets run, and no page or stub lags behind the registry."""

import json
import os
import re
import subprocess
import sys

import pytest

from core import CASES
from veneer import _core
from veneer.__main__ import main

REGISTRY = json.loads(_core.registry())


@pytest.fixture
def generated(capsys):
    """What `python -m veneer COMMAND` prints."""

    def run(command):
        assert main([command]) == 0
        return capsys.readouterr().out

    return run


def test_every_registry_row_has_a_test_row():
    assert sorted(CASES["matrices"]) == sorted(REGISTRY["matrices"])
    assert sorted(CASES["methods"]) == sorted(REGISTRY["methods"])


def test_every_registry_row_has_a_documentation_row(root, generated):
    page = (root / "docs/methods.md").read_text()
    for kind in ("methods", "matrices"):
        for name, entry in REGISTRY[kind].items():
            assert re.search(rf"^#+ `?{name}`?$", page, re.M), name
            assert entry["source"] in page
    for entry in REGISTRY["configs"].values():
        assert re.search(rf"^#+ `?{entry['name']}`?$", page, re.M), entry["name"]
    assert page == generated("docs"), "stale: python -m veneer docs --output docs/methods.md"


def test_the_stub_is_the_registry_s(root, generated):
    assert (root / "python/veneer/config.pyi").read_text() == generated("stubs"), (
        "stale: python -m veneer stubs --output python/veneer/config.pyi"
    )


def test_options_are_documented():
    """Every field has a type, a default in its range, and one line of help."""
    tables = [
        entry[key]
        for kind, key in (("methods", "options"), ("matrices", "options"), ("configs", "fields"))
        for entry in REGISTRY[kind].values()
    ]
    for option in [o for table in [*tables, REGISTRY["common_fields"]] for o in table]:
        assert option["help"], option["name"]
        assert "\n" not in option["help"]
        assert not option["choices"] or option["default"] in option["choices"]
        for bound, sign in (("minimum", 1), ("maximum", -1)):
            if option[bound] is not None:
                assert sign * (option["default"] - option[bound]) >= 0, option["name"]


def test_python_snippets_run(root, tmp_path):
    """Those of one page run one after another, as a reader would; a page says `<!-- no-test -->` before one that cannot."""
    pages = {}
    for file in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        if file.is_file():
            found = re.findall(r"(<!-- no-test -->\s*)?^```python\n(.*?)^```", file.read_text(), re.M | re.S)
            pages[file] = "\n".join(code for skipped, code in found if not skipped)
    pages = {file: code for file, code in pages.items() if code.strip()}
    if not pages:
        pytest.skip("no page has Python snippets yet")
    for file, code in pages.items():
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, f"{file.name}:\n{code}\n{done.stderr}"
