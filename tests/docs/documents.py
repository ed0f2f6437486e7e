# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the documents tell people to type: the commands and Python snippets of README, CONTRIBUTING and docs/."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md")))
SHELL = ("bash", "indented")
_COMMENT = re.compile(r"(^|\s+)#(\s.*)?$")


@dataclass(frozen=True)
class Block:
    """A code block. `language` is what stands behind the fence, or "indented"."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command as a shell would read it, on one line, without comments."""

    page: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The code blocks of a page, fenced or indented by four."""
    return list(_blocks(page, (ROOT / page).read_text()))


def _blocks(page: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = at + 1
        if lines[at].lstrip().startswith("```"):
            end = next(i for i in range(start, len(lines)) if lines[i].strip() == "```")
            yield Block(page, start + 1, lines[at].strip("` "), textwrap.dedent("\n".join(lines[start:end])))
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            while at < len(lines) and (lines[at].startswith("    ") or not lines[at].strip()):
                at += 1
            yield Block(page, start, "indented", textwrap.dedent("\n".join(lines[start - 1 : at])))
        else:
            at += 1


def commands_in(block: Block) -> Iterator[Command]:
    """The commands of a shell block; one may go over several lines, by a backslash or an open quote."""
    begun, first = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        first = first if begun else number
        begun = f"{begun} {_COMMENT.sub('', line)}".strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
        elif begun and _closed(begun):
            yield Command(block.page, first, " ".join(begun.split()))
            begun = ""
    assert not begun, f"{block.page}:{first}: this command does not end: {begun}"


def _closed(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def commands() -> list[Command]:
    """Every command of every page, in order."""
    return [
        command for page in PAGES for block in blocks(page) if block.language in SHELL for command in commands_in(block)
    ]
