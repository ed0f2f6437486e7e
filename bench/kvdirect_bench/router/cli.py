# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Measures routers before fake engines, in turns: `make bench-router`, or `python bench/router_bench.py --help`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kvdirect.harness.processes import ProcessSet, StartError
from kvdirect_bench.command import Parser, say
from kvdirect_bench.errors import BenchError
from kvdirect_bench.header import describe_machine
from kvdirect_bench.interleave import in_rounds
from kvdirect_bench.report import as_table

from .contenders import engine, ours, port_of, processor_seconds, theirs
from .load import Measured
from .report import Turn, judge, table
from .workload import TINY, WORKLOADS, Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from kvdirect.harness.processes import ManagedProcess

_START_SECONDS = 60.0
_TURN_SECONDS = 120.0
_OTHER_ENVIRONMENT = Path(".venv-bench-router/bin/vllm-router")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0: every bar is met and every answer was right."""
    parser = Parser(prog="kvdirect_bench.router", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each router (default: %(default)s)")
    parser.add_argument("--workers", default="1,2", help="processes of ours, for each its turn (default: %(default)s)")
    parser.add_argument("--other", type=Path, default=_OTHER_ENVIRONMENT, metavar="FILE", help="vllm-router's program")
    parser.add_argument("--only", default="", metavar="NAMES", help="of the workloads, those named")
    parser.add_argument("--tiny", action="store_true", help="a few requests, to see that it works; nothing is judged")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all turns there")
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    workloads = tuple(
        one for one in (TINY if args.tiny else WORKLOADS) if not args.only or one.name in args.only.split(",")
    )
    turns: list[Turn] = []
    with (
        tempfile.TemporaryDirectory(prefix="kvdirect-bench-router-") as folder,
        _routers(args, Path(folder)) as routers,
    ):
        for number, what, order in in_rounds(routers, args.rounds, 0 if args.tiny else 1):
            say(what)
            for workload in workloads:
                turns += [_turn(router, workload, number) for router in order]
    turns = [turn for turn in turns if turn.number >= 0]
    if args.json is not None:
        header = describe_machine(sys.argv)
        args.json.write_text(json.dumps({"header": header, "turns": [asdict(turn) for turn in turns]}) + "\n")
    print(table(turns))
    wrong = sum(turn.measured.wrong for turn in turns)
    print(f"\n{wrong} answers were wrong or did not come")
    if args.tiny:
        return 1 if wrong else 0
    outcomes = judge(turns)
    print("\n" + as_table(outcomes))
    return 0 if not wrong and all(one.met for one in outcomes) else 1


@contextlib.contextmanager
def _routers(args: argparse.Namespace, folder: Path) -> Iterator[list[ManagedProcess]]:
    """All routers that can be had here, before two engines."""
    engines = [engine(role, folder, Workload.events_of_a_stream) for role in ("prefill", "decode")]
    prefill, decode = (process.url for process in engines)
    routers = [ours(int(count), prefill, decode, folder) for count in args.workers.split(",")]
    if args.other.exists():
        routers.append(theirs(args.other.absolute(), prefill, decode, folder))
    else:
        say(f"left out: vllm-router, no {args.other}; `make bench-router` installs it")
    try:
        with (
            ProcessSet(engines, deadline=_START_SECONDS, say=say),
            ProcessSet(routers, deadline=_START_SECONDS, say=say),
        ):
            yield routers
    except StartError as error:
        raise BenchError(str(error)) from error


def _turn(router: ManagedProcess, workload: Workload, number: int) -> Turn:
    words = [port_of(router), workload.streams, workload.requests if number >= 0 else workload.streams, workload.events]
    before = processor_seconds(router.group)
    done = subprocess.run(  # noqa: S603  (the command is ours)
        [sys.executable, "-m", "kvdirect_bench.router.load", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=_TURN_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"the client failed: {done.stderr}")
    router.check()
    measured = Measured(**json.loads(done.stdout))
    time.sleep(0.05)  # what is counted after an answer was sent
    return Turn(router.name, workload, number, measured, processor_seconds(router.group) - before)


if __name__ == "__main__":
    sys.exit(main())
