# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What pulls between two processes on one GPU must reach; bench/gpu_check.sh runs it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import gpu
from .arguments import number_of, words_of
from .command import Parser, add_judged, say
from .contenders import CUDA_COPIES, Contender, lane_contender, others
from .errors import BenchError, BenchUsageError
from .measure import measure
from .options import ROUNDS, Options
from .process import LocalHost
from .pythons import parse_pythons, python_of
from .report import Outcome, Report, as_table
from .targets import Target, conclude, judge_ratio
from .workload import Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

LANE = "cuda_ipc"
OURS = f"kvdirect-{LANE}"
# The telling ones first: what follows may be cut off.
SIZES = "16k,4k,1m,64k,256k,4m"
COPIES = ("device-copy", "device-copy-events")
# What copies block by block, and where it must be left behind.
PER_BLOCK = ("ucx", "nixl-best")
_PER_BLOCK_SIZE = 16 << 10
_TIMES_PER_BLOCK = 10.0
_LARGE, _SMALL = 0.9, 0.5
_SMALL_SIZE = 4 << 10


@dataclass(frozen=True, slots=True)
class Contest:
    """One interleaved run: runs of one size, and beside whom; the first of them is the yardstick."""

    size: int
    beside: tuple[str, ...]

    @property
    def factor(self) -> float:
        """How many times as fast as the yardstick a pull must be."""
        if self.beside[0] not in COPIES:
            return _TIMES_PER_BLOCK
        return _SMALL if self.size <= _SMALL_SIZE else _LARGE


def contests(sizes: Sequence[int], per_block: Sequence[str]) -> list[Contest]:
    """All that are run; those that copy block by block have runs of their own, since one that fails ends its run."""
    return [*(Contest(size, COPIES) for size in sizes), *(Contest(_PER_BLOCK_SIZE, (name,)) for name in per_block)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0: every target is met and every byte was right, 2: it cannot be measured here."""
    parser = Parser(prog="kvdirect_bench.gpu_targets", description=__doc__, allow_abbrev=False)
    add_judged(parser, ROUNDS)
    parser.add_argument(
        "--sizes", default=",".join(SIZES), metavar="LIST", help="bytes of a run (default: %(default)s)"
    )
    parser.add_argument("--pull-bytes", default="1g", metavar="N", help="bytes of a pull (default: %(default)s)")
    parser.add_argument(
        "--per-block", default=",".join(PER_BLOCK), metavar="LIST", help="what copies block by block (default: all)"
    )
    parser.add_argument("--cuda-sms", type=int, default=0, help="as in `kvdirect bench`")
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    try:
        gpu.require_torch()
    except BenchError as error:
        raise BenchUsageError(str(error)) from error
    pythons = parse_pythons(args.peer_python)
    total = number_of("--pull-bytes", args.pull_bytes)
    sizes = [number_of("--sizes", word) for word in words_of("--sizes", args.sizes)]
    largest = max(*sizes, _PER_BLOCK_SIZE)
    if total < largest:
        raise BenchUsageError(f"--pull-bytes {total}: expected at least {largest}, the largest run")
    per_block = [one.name for one in others(words_of("--per-block", args.per_block), "cuda")]
    held: list[tuple[Contest, Report | str]] = []
    for contest in contests(sizes, per_block):
        held.append((contest, _hold(contest, total, args, pythons)))
        # At once, so that a run that is cut off leaves what it has.
        say(as_table(judge(held[-1:])))
        measured = [found for _, found in held if isinstance(found, Report)]
        if measured and args.json is not None:
            args.json.write_text(_merged(measured).render("json") + "\n")
    report = _merged(measured)
    print(report.render("table"))
    return conclude(report, judge(held))


def _hold(contest: Contest, total: int, args: argparse.Namespace, pythons: Mapping[str, str]) -> Report | str:
    """What was measured, or why nothing was: the other contests go on."""
    host = LocalHost(pythons)
    try:
        return measure(_options(contest, total, args, _contenders(contest, pythons)), (host, host), say)
    except BenchError as error:
        say(f"{contest.size} bytes beside {', '.join(contest.beside)}: {error}")
        return str(error)


def _merged(reports: Sequence[Report]) -> Report:
    if not reports:
        raise BenchError("nothing could be measured; the lines above say why")
    versions = {name: version for one in reports for name, version in one.header["versions"].items()}
    rows = [row for one in reports for row in one.rows]
    return Report({**reports[0].header, "versions": versions}, rows)


def judge(held: Sequence[tuple[Contest, Report | str]]) -> list[Outcome]:
    """Every target. What copies block by block may be missing, but not all of it: then nothing was shown."""
    copies = [_outcome(contest, found) for contest, found in held if contest.beside[0] in COPIES]
    per_block = [(contest, found) for contest, found in held if contest.beside[0] not in COPIES]
    measured = [_outcome(contest, found) for contest, found in per_block if _took_part(contest, found)]
    if per_block and not measured:
        why = "; ".join(f"{contest.beside[0]}: {_why(found)}" for contest, found in per_block)
        wanted = f"{_TIMES_PER_BLOCK:g} x {' or '.join(contest.beside[0] for contest, _ in per_block)}"
        measured = [Outcome(_work(_PER_BLOCK_SIZE), wanted, why, met=False)]
    return [*copies, *measured]


def _took_part(contest: Contest, found: Report | str) -> bool:
    return isinstance(found, Report) and {OURS, contest.beside[0]} <= {row.name for row in found.rows}


def _why(found: Report | str) -> str:
    return found if isinstance(found, str) else "has no figures"


def _outcome(contest: Contest, found: Report | str) -> Outcome:
    yardstick = contest.beside[0]
    if isinstance(found, str):
        return Outcome(_work(contest.size), f"{contest.factor:g} x {yardstick}", found, met=False)
    rows = {(row.blocks, row.block_bytes, row.name): row for row in found.rows}
    workload = (found.rows[0].blocks, found.rows[0].block_bytes)
    return judge_ratio(Target(_work(contest.size), workload, OURS, ((yardstick, contest.factor),)), rows, {})


def _work(size: int) -> str:
    return f"{LANE}, {size >> 10} KiB runs"


def _contenders(contest: Contest, pythons: Mapping[str, str]) -> tuple[Contender, ...]:
    beside = others(contest.beside, "cuda")
    for one in beside:
        python_of(one, pythons)
    copies = CUDA_COPIES if contest.beside[0] in COPIES else CUDA_COPIES[:1]
    ours = [lane_contender(LANE, cuda_copy=copy, optional=copy != CUDA_COPIES[0]) for copy in copies]
    return (*ours, *beside)


def _options(contest: Contest, total: int, args: argparse.Namespace, contenders: tuple[Contender, ...]) -> Options:
    workload = Workload("raw", 1, 1, total // contest.size, 1, 1, contest.size, 1.0, "default", device="cuda")
    return Options((workload,), contenders, args.rounds, device="cuda", cuda_sms=args.cuda_sms)


if __name__ == "__main__":
    sys.exit(main())
