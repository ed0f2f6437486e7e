# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The documents say what the code has: every setting, every error, every link."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import kvtransfer
import kvtransfer.errors
from kvdirect.config import Settings

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#:]+?)(#[^)]*)?\)")


def program(name: str) -> ModuleType:
    """A program of tools/, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return program("settings_tables")


def test_the_table_of_kinds_is_that_of_the_tests() -> None:
    kinds = program("kinds_table")
    text = (ROOT / kinds.PAGE).read_text()
    assert kinds.table() in text
    assert kinds.updated(text) == text, f"{kinds.PAGE} is stale: run `make docs`"


def test_the_tables_of_settings_are_those_of_the_code(tables: ModuleType) -> None:
    marked = []
    for page in tables.PAGES:
        text = (ROOT / page).read_text()
        marked += re.findall(r"<!-- settings: (\w+) -->", text)
        stale = [line for line in tables.updated(text).splitlines() if line not in text.splitlines()]
        assert tables.updated(text) == text, f"{page} is stale: run `make docs`. Lines that it lacks: {stale}"
    assert sorted(marked) == sorted(tables.TABLES), "a table has no marks in docs/, or marks that nothing fills"


def test_the_tables_name_every_setting_and_its_default(tables: ModuleType) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", tables.table("plugin"), re.MULTILINE)
    assert {key: json.loads(default) for key, default in rows} == json.loads(msgspec.json.encode(Settings()))
    assert "| `--max-in-flight` | `4096` |" in tables.table("router")


def test_a_meaning_may_take_several_lines(tables: ModuleType) -> None:
    class Documented:
        """Has one attribute.

        Attributes:
            known: means this,
                and that.
        """

    assert tables.meanings(Documented) == {"known": "means this, and that"}


@pytest.mark.parametrize(
    ("page", "heading"), [("security", "## Threats"), ("reliability", "## What happens when an engine dies")]
)
def test_every_row_names_a_test_that_is_there(page: str, heading: str) -> None:
    """Or says in bold what cannot be kept from happening."""
    part = (ROOT / f"docs/{page}.md").read_text().partition(heading)[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in part.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
        assert named or "**" in row[2], f"docs/{page}.md: no test for: {row[1]}"
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text(), f"docs/{page}.md: {path} has no {name}"


# What says when something happened, for people and other programs.
WALL_CLOCKS = {
    "kvtransfer/admission.py": "until when one reader's descriptor is good",
    "csrc/session/owner_admission.cpp": "the same",
    "vllm_plugin/kvdirect/request_log.py": "when a line was written, to be put among other processes' lines",
    "vllm_plugin/kvdirect/worker/reader.py": "the same, of the pull log",
}


def test_nothing_waits_by_the_wall_clock() -> None:
    sources = [*ROOT.glob("csrc/**/*.*"), *ROOT.glob("kvtransfer/*.py"), *ROOT.glob("vllm_plugin/kvdirect/**/*.py")]
    wall = re.compile(r"system_clock|CLOCK_REALTIME|gettimeofday|\btime\.time\(|datetime\.now\(")
    found = {str(path.relative_to(ROOT)) for path in sources if path.suffix != ".so" and wall.search(path.read_text())}
    assert found == set(WALL_CLOCKS)


@pytest.mark.parametrize("error", [name for name in dir(kvtransfer.errors) if name[0].isupper()])
def test_every_error_has_a_section(error: str) -> None:
    if error == "KVTransferError":
        return  # the base, never raised itself
    assert f"\n## {error}\n" in (ROOT / "docs/troubleshooting.md").read_text()


def test_every_public_name_is_listed() -> None:
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs/api.md").read_text()))
    assert set(kvtransfer.__all__) <= listed


@pytest.mark.parametrize(
    "page", sorted(p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target, _ in LINK.findall(text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_no_file_is_two_things() -> None:
    """One past 400 lines says on its first line why it is not."""
    sources = [
        path
        for folder in ("csrc", "kvtransfer", "vllm_plugin", "bench", "tests", "examples", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".pyi", ".cpp", ".h", ".cu", ".sh", ".mk"}
    ]
    assert len(sources) > 200
    for path in sources:
        first, *rest = path.read_text().splitlines() or [""]
        assert len(rest) < 400 or "400 lines" in first, f"{path.relative_to(ROOT)} has {len(rest) + 1} lines"


def test_the_bounds_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\|[^|]*\| ([\d.]+)[^|]*\| `([\w.]+)\.(\w+)` \|", (ROOT / "docs/security.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 10
    for number, module, name in rows:
        path = module if module.startswith("kvdirect.") else f"kvdirect.handshake.{module}"
        assert getattr(importlib.import_module(path), name) == float(number), f"docs/security.md: {module}.{name}"
