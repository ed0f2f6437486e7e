# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Simulates serving clusters and prints what came of it: `make simulate`, or `python bench/simulate.py`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect_bench.command import Parser, say
from kvdirect_bench.errors import BenchError, BenchUsageError
from kvdirect_bench.report import as_table

from . import calibrate, shifting
from .comparison import Scope, compare
from .engine import Model
from .oracle import TABLE, load
from .plots import draw_comparison, draw_shift, matplotlib
from .variants import two_instances, ways

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

PARTS = ("comparison", "two", "ways", "elastic")
_TINY = Scope(((2048, 32),), (0.3, 0.7), 20)
_TINY_SECONDS = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0: it was done, and with --bars or --calibrate every bar is met."""
    parser = Parser(prog="simulate.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--parts", default=",".join(PARTS), metavar="LIST", help="some of %(default)s (default: all)")
    parser.add_argument(
        "--times", type=Path, default=TABLE, metavar="FILE", help="table of step times (default: the tree's)"
    )
    parser.add_argument(
        "--overhead-ms",
        type=float,
        default=1.0,
        metavar="MS",
        help="of scheduler and input at each step (default: %(default)g)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/simulate"), metavar="FOLDER", help="for plots (default: %(default)s)"
    )
    parser.add_argument("--no-plots", action="store_true", help="tables only")
    parser.add_argument("--tiny", action="store_true", help="a few requests, to see that it works; nothing is judged")
    parser.add_argument("--bars", action="store_true", help="exit status 1 where a bar is missed")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="simulations at a time (default: one a CPU)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of elastic's trace (default: %(default)s)")
    parser.add_argument(
        "--calibrate",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="instead: judge the simulator by runs of the serving benchmark",
    )
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    if args.calibrate is not None:
        return calibrate.judge_files(args.calibrate)
    parts = args.parts.split(",")
    for part in parts:
        if part not in PARTS:
            raise BenchUsageError(f"--parts {part}: expected some of {', '.join(PARTS)}")
    if args.processes < 0:
        raise BenchUsageError(f"--processes {args.processes}: expected at least 0")
    table = load(args.times)
    model = Model(table, table.kv_tokens, table.kv_bytes_per_token, overhead=args.overhead_ms / 1e3)
    if not args.no_plots:
        matplotlib()
        _make(args.out)
    scope = _TINY if args.tiny else Scope()
    scope = replace(scope, processes=args.processes or len(os.sched_getaffinity(0)))
    print(f"step times: {table.model}; {args.overhead_ms:g} ms more a step; cache of {table.kv_tokens} tokens")
    missed = False
    for part in parts:
        say(f"simulating: {part}")
        missed = _part(part, model, args, scope) or missed
    return 1 if args.bars and missed else 0


def _part(part: str, model: Model, args: argparse.Namespace, scope: Scope) -> bool:
    """Whether a bar was missed."""
    missed = False
    if part == "comparison":
        found, lines = compare(model, scope)
        if not args.no_plots:
            lines += ["", f"plot: {draw_comparison(found, args.out)}"]
    elif part == "two":
        lines = two_instances(model, scope)
    elif part == "ways":
        lines = ways(model, scope)
    else:
        seconds = _TINY_SECONDS if args.tiny else shifting.SECONDS
        trace, lines, outcomes = shifting.shift(model, seconds, scope.processes, args.seed)
        if not args.no_plots:
            lines += ["", f"plot: {draw_shift(trace, seconds, args.out)}"]
        if not args.tiny:
            lines += ["", as_table(outcomes)]
            missed = not all(one.met for one in outcomes)
    print("\n".join(lines), flush=True)
    return missed


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"--out {folder}: cannot be made ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
