# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Measures gathers of rows by id from two stores, in turns: `make bench-rows`, or `kvdirect bench rows`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvdirect_bench.command import Parser, say
from kvdirect_bench.errors import BenchError
from kvdirect_bench.header import describe_machine
from kvdirect_bench.report import as_table

from .child import child
from .contenders import contenders, left_out
from .report import Turn, judge, table
from .workload import STORES, TINY, WORKLOADS, Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .contenders import Contender

_WARM_UP = 3


def main(argv: Sequence[str] | None = None, prog: str = "rows_bench.py") -> int:
    """Measure and print; 0: every byte was right, and every bar is met that was judged."""
    parser = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=21, help="gathers of each contender (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a few rows, to see that it works; nothing is judged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all turns there")
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    turns: list[Turn] = []
    for name in left_out():
        say(f"left out: {name}, which is not installed; `make bench-rows` installs it")
    for workload in TINY if args.tiny else WORKLOADS:
        # A process of its own each: torch's rpc is joined once in a process's life.
        turns += [Turn(workload, *json.loads(line)) for line in _child_of(workload, args.rounds)]
    if args.json is not None:
        header = describe_machine(sys.argv)
        args.json.write_text(json.dumps({"header": header, "turns": [asdict(turn) for turn in turns]}) + "\n")
    print(table(turns))
    wrong = sum(turn.wrong for turn in turns)
    print(f"\n{wrong} bytes were wrong")
    if args.tiny:
        return 1 if wrong else 0
    outcomes = judge(turns)
    print("\n" + as_table(outcomes))
    return 0 if not wrong and all(one.met for one in outcomes) else 1


def _child_of(workload: Workload, rounds: int) -> list[str]:
    done = subprocess.run(  # noqa: S603  (the command is ours)
        [sys.executable, "-m", "kvdirect_bench.gather.cli", "--measure", json.dumps(asdict(workload)), str(rounds)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"measuring {workload.name} failed")
    return done.stdout.splitlines()


def _measure(workload: Workload, rounds: int) -> None:
    """All rounds of a workload; each turn is a line: contender, round, seconds, wrong bytes."""
    with tempfile.TemporaryDirectory(prefix="kvdirect-bench-rows-") as folder, contextlib.ExitStack() as running:
        stores = [running.enter_context(child("store", workload, str(number), folder)) for number in range(STORES)]
        offers = [bytes.fromhex(_line(process)) for process in stores]
        everything = workload.features(range(workload.rows))
        order = random.Random(1)  # noqa: S311
        with contenders(workload, offers, folder) as all_of_them:
            for number in range(-_WARM_UP, rounds):
                order.shuffle(all_of_them)
                for contender in all_of_them:
                    seconds, wrong = _turn(contender, workload, number, everything)
                    if number >= 0 or wrong:
                        print(json.dumps([contender.name, number, seconds, wrong]), flush=True)
        sys.stdout.flush()
        # Without a farewell to torch's rpc, which waits for all of its group.
        for process in stores:
            process.kill()


def _turn(
    contender: Contender, workload: Workload, number: int, everything: np.typing.NDArray[np.float32]
) -> tuple[float, int]:
    # Of its own each, so that none finds what the one before has brought into the caches.
    ids = workload.ids(_seed(contender.name, number))
    began = time.perf_counter()
    rows = contender.gather(ids)
    seconds = time.perf_counter() - began
    return seconds, int(np.count_nonzero(rows.view(np.uint8) != everything[ids].view(np.uint8)))


def _seed(name: str, number: int) -> int:
    return sum(name.encode()) * 1000 + number + _WARM_UP


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise BenchError("a store did not start")
    return line.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        _measure(Workload(**json.loads(sys.argv[2])), int(sys.argv[3]))
        # torch's rpc would wait for its group.
        os._exit(0)
    sys.exit(main())
