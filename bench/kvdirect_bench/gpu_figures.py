# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The figures of a GPU as Markdown, from what `bench/gpu_check.sh` leaves; for docs/benchmarks.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import Parser
from .errors import BenchUsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

BEGIN, END = "<!-- figures of a GPU: begin -->", "<!-- figures of a GPU: end -->"
# Columns by what tells a file's rows from those of the other program.
_PULLS = ("engine", "block_bytes", "runs", "gbps", "p50_us", "p99_us", "wrong", "ratio_to_device_copy")
_INTERFERENCE = ("sms", "gbps_alone", "gbps", "tflops", "slowdown", "wrong")


def main(argv: Sequence[str] | None = None) -> int:
    """Print them, or put them into a document; 2: a file is none of those."""
    parser = Parser(prog="kvdirect_bench.gpu_figures", description=__doc__, allow_abbrev=False)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="bars.json, interference.json or table.txt")
    parser.add_argument("--into", type=Path, metavar="FILE", help=f"a document, between its lines {BEGIN} and {END}")
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    text = "\n\n".join(section(path) for path in args.files)
    if args.into is None:
        print(text)
    else:
        args.into.write_text(placed(_read(args.into), text, str(args.into)))
    return 0


def section(path: Path) -> str:
    """What one file says.

    Raises:
        BenchUsageError: It cannot be read, or is of something else.
    """
    text = _read(path)
    if path.suffix != ".json":
        return f"```\n{text.strip()}\n```"
    try:
        found = json.loads(text)
        header, rows = found["header"], found["rows"]
        columns = _PULLS if "engine" in rows[0] else _INTERFERENCE
        body = [[_cell(row[name]) for name in columns] for row in rows]
        where = f"{header['gpu']}, {header['date']}, by `{header['command']}`:"
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BenchUsageError(
            f"{path}: expected what gpu_targets or interference writes with --json ({type(error).__name__}: {error})"
        ) from error
    lines = [columns, ["---"] * len(columns), *body]
    return "\n".join([where, "", *("| " + " | ".join(line) + " |" for line in lines)])


def placed(document: str, text: str, name: str) -> str:
    """The document with that text between its two marks.

    Raises:
        BenchUsageError: It does not have them, or not in that order.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchUsageError(f"--into {name}: expected the lines {BEGIN} and {END} in it")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _cell(value: Any) -> str:  # noqa: ANN401  (of JSON)
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchUsageError(f"{path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
