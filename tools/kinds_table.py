# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Writes the table of cache kinds in docs/compatibility.md from the rows that tests/kinds runs: `make docs`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/compatibility.md"
_MARKED = re.compile(r"(<!-- kinds -->\n).*?(<!-- end of kinds -->)", re.DOTALL)


def _rows() -> Iterable[Any]:
    folder = ROOT / "tests/kinds"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("rows", folder / "rows.py")
    assert spec is not None  # noqa: S101  (a file of this repository)
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.modules["rows"] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    rows: Iterable[Any] = module.ROWS
    return rows


def _compared(row: Any) -> str:  # noqa: ANN401  (a Row of a file that is no module of ours)
    """What its tokens are compared with."""
    if not row.comparable:
        return "bytes alone (see below)"
    one = "an engine that prefills itself" if row.exact else "an engine that stops at N-1 and goes on"
    return one + (", one request at a time" if row.alone else "")


def table() -> str:
    """The table as Markdown."""
    lines = [("kind", "model of the test", "vLLM's groups", "compared with"), ("---",) * 4]
    for row in _rows():
        kinds = ", ".join(f"`{kind}`" for kind in dict.fromkeys(part.kind for part in row.parts))
        lines.append((row.name, f"`{row.architecture}`, {row.dtype}", kinds, _compared(row)))
    return "".join(f"| {' | '.join(cells)} |\n".replace("| --- ", "|---") for cells in lines)


def updated(text: str) -> str:
    """The page with its table as it should be."""
    return _MARKED.sub(lambda match: match[1] + table() + match[2], text)


def main() -> None:
    """Bring the page up to date."""
    path = ROOT / PAGE
    before = path.read_text()
    after = updated(before)
    if after != before:
        path.write_text(after)
        print(f"{PAGE}: updated")


if __name__ == "__main__":
    main()
