# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The documents say what the code has: every setting, every error, every link."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

import kvtransfer
import kvtransfer.errors
from kvdirect.config import Settings

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#:]+?)(#[^)]*)?\)")


def test_every_setting_and_its_default_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    documented = {key: json.loads(default) for key, default in rows}
    defaults = msgspec.to_builtins(Settings())
    assert documented == json.loads(json.dumps(defaults))


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
