# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Writes the tables of settings in docs/ from the objects that hold them: `make docs`.

A table lies between `<!-- settings: NAME -->` and `<!-- end of settings -->`. Names and defaults are those of the
object, the meaning is what its docstring says under "Attributes:".
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvdirect.cli import proxy
from kvdirect.cli.proxy import meanings
from kvdirect.config import Settings
from kvdirect.router.config import ProxyConfig
from kvtransfer import EngineConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/configuration.md", "docs/router.md")
_MARKED = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- end of settings -->)", re.DOTALL)

Row = tuple[str, str, str]


def plugin_rows() -> Iterable[Row]:
    """Keys of `kv_connector_extra_config`; defaults as JSON. What is the engine's is explained there."""
    told = meanings(EngineConfig) | meanings(Settings)
    for name, value in msgspec.to_builtins(Settings()).items():
        yield f"`{name}`", f"`{json.dumps(value)}`", told[name]


def engine_rows() -> Iterable[Row]:
    """Fields of `kvtransfer.EngineConfig`; defaults as Python."""
    told = meanings(EngineConfig)
    for item in dataclasses.fields(EngineConfig):
        yield f"`{item.name}`", f"`{item.default!r}`", told[item.name]


def router_rows() -> Iterable[Row]:
    """Options of `kvdirect proxy`; the few that are no field of ProxyConfig are explained by their help."""
    told = meanings(ProxyConfig)
    parser = argparse.ArgumentParser(add_help=False)
    proxy.add_arguments(parser)
    for action in parser._actions:  # noqa: SLF001  (argparse has no public list of its options)
        name = f"{action.option_strings[0]} {action.metavar or ''}".rstrip()
        default = f"`{action.default}`" if action.default not in ([], None) else ""
        yield f"`{name}`", default, told.get(action.dest) or _help(action)


def _help(action: argparse.Action) -> str:
    return f"one of {', '.join(map(str, action.choices))}" if action.choices else str(action.help)


TABLES: dict[str, tuple[str, Callable[[], Iterable[Row]]]] = {
    "plugin": ("key", plugin_rows),
    "engine": ("field", engine_rows),
    "router": ("option", router_rows),
}


def table(name: str) -> str:
    """A table as Markdown."""
    first, rows = TABLES[name]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows())
    lines = [(first, "default", "meaning"), ("---",) * 3, *escaped]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |").replace("| --- ", "|---") for cells in lines)


def updated(text: str) -> str:
    """A page with its tables as they should be."""
    return _MARKED.sub(lambda match: match[1] + table(match[2]) + match[3], text)


def main() -> None:
    """Bring every page up to date."""
    for page in PAGES:
        path = ROOT / page
        before = path.read_text()
        after = updated(before)
        if after != before:
            path.write_text(after)
            print(f"{page}: updated")


if __name__ == "__main__":
    main()
