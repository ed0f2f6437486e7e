# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What pulls must reach on one host, beside others in one interleaved run and when they wait: `make bench-bars`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .block_ids import scattered
from .cli import verdict
from .command import Parser, add_judged, say
from .contenders import Contender, lane_contender, others
from .errors import BenchError
from .measure import measure
from .native import yardsticks
from .options import ROUNDS, Options
from .process import LocalHost
from .pythons import parse_pythons, python_of
from .report import Outcome, Report, as_table
from .spread import median
from .waiting import judge_waiting
from .workload import Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .block_ids import Ids
    from .rows import Row

# Blocks of a pull and their bytes; PERMUTED: pieces of blocks whose rows lie in another order on the two sides.
LARGE, SMALL, ONE, PLANNED, PERMUTED = (8192, 32768), (65536, 4096), (1, 4096), (20000, 4096), (524288, 256)
_PEERS = ("memcpy", "memcpy2", "socket", "socket2", "nixl", "nixl-best", "nixl-tcp")
_SAME_HOST = ("shm", "cma")
# Times hold on a processor of today; on a slower one what the same work costs it without us is the measure: to write
# down and sort as many blocks, or to multiply their ids, checking nothing.
_PLAN_US, _PLAN_SORTS = 1000.0, 1.0
# Blocks that are planned for a GPU, and the most nanoseconds for each.
GROUPS = ((65536, 1.8), (262144, 2.0))
_GROUP_PRODUCTS = 2.5
# Microseconds until what the first launch is told stands ready, for so many of them.
_TO_LAUNCH_US = 60.0
_PLANS = 100


@dataclass(frozen=True, slots=True)
class Target:
    """One contender must be so many times as fast as another; one of several pairs suffices.

    Attributes:
        work: What is pulled, in words.
        workload: Blocks and bytes.
        ours: The contender.
        least: Pairs of another contender and a factor.
    """

    work: str
    workload: tuple[int, int]
    ours: str
    least: tuple[tuple[str, float], ...]


TARGETS = (
    Target("shm, 32 KiB blocks", LARGE, "kvdirect-shm", (("memcpy", 1.2), ("memcpy2", 0.95))),
    Target("shm, 32 KiB blocks", LARGE, "kvdirect-shm", (("nixl-best", 2.5),)),
    Target("shm, 4 KiB blocks", SMALL, "kvdirect-shm", (("memcpy", 1.0),)),
    Target("shm, 4 KiB blocks", SMALL, "kvdirect-shm", (("nixl-best", 8.0),)),
    Target("cma, 32 KiB blocks, one copy thread", LARGE, "kvdirect-cma-1t", (("memcpy", 0.6),)),
    Target("cma, 32 KiB blocks, two copy threads", LARGE, "kvdirect-cma-2t", (("memcpy", 0.85),)),
    Target("message, 32 KiB blocks", LARGE, "kvdirect-message", (("socket", 1.1),)),
    Target("message, 32 KiB blocks", LARGE, "kvdirect-message", (("socket2", 0.75),)),
    Target("message, 32 KiB blocks", LARGE, "kvdirect-message", (("nixl-tcp", 5.0),)),
    Target("message, 4 KiB blocks", SMALL, "kvdirect-message", (("socket", 1.0),)),
    Target("shm, 256-byte pieces", PERMUTED, "kvdirect-shm", (("memcpy", 0.5),)),
    Target("message, 256-byte pieces", PERMUTED, "kvdirect-message", (("socket", 1.5),)),
    Target("one 4 KiB block by shm, from Python", ONE, "kvdirect-shm", (("nixl-best", 2.0),)),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 0: every target is met and every byte was right."""
    parser = Parser(prog="kvdirect_bench.targets", description=__doc__, allow_abbrev=False)
    add_judged(parser, ROUNDS)
    return parser.main(_run, argv)


def _run(args: argparse.Namespace) -> int:
    pythons = parse_pythons(args.peer_python)
    contenders, missing = _contenders(pythons)
    host = LocalHost(pythons)
    report: Report | None = None
    for workload in (LARGE, SMALL, PERMUTED, ONE, PLANNED):
        one = measure(_options(workload, _taking_part(workload, contenders), args.rounds), (host, host), say)
        if report is None:
            report = one
        else:
            report.rows += one.rows
    if report is None:
        raise BenchError("no workload was measured")
    if args.json is not None:
        args.json.write_text(report.render("json") + "\n")
    print(report.render("table"))
    return conclude(report, [*judge(report.rows, missing), *judge_planning(), *judge_waiting(say)])


def conclude(report: Report, outcomes: Sequence[Outcome]) -> int:
    """Print what is met; 0: everything is, and every byte was right."""
    print("\n" + as_table(outcomes))
    wrong = verdict(report)
    return wrong or (0 if all(one.met for one in outcomes) else 1)


def judge(rows: Sequence[Row], missing: dict[str, str]) -> list[Outcome]:
    """Every target against the rows.

    Args:
        rows: Of all workloads.
        missing: Why a contender did not take part, by its name.
    """
    found = {(row.blocks, row.block_bytes, row.name): row for row in rows}
    outcomes = [judge_ratio(target, found, missing) for target in TARGETS]
    return [*outcomes, _judge_planning(found, missing)]


def judge_ratio(target: Target, rows: dict[tuple[int, int, str], Row], missing: dict[str, str]) -> Outcome:
    """One target against rows by blocks, bytes and name."""
    wanted = " or ".join(f"{factor:g} x {other}" for other, factor in target.least)
    row = rows.get((*target.workload, target.ours))
    if row is None:
        return Outcome(target.work, wanted, absent(target.ours, missing), met=False)
    said, met = [], False
    for other, factor in target.least:
        ratio = row.ratios.get(other)
        if ratio is None:
            said.append(absent(other, missing))
        else:
            said.append(f"{ratio} x {other}")
            met = met or ratio.median >= factor
    return Outcome(target.work, wanted, ", ".join(said), met=met and not row.wrong)


def _judge_planning(rows: dict[tuple[int, int, str], Row], missing: dict[str, str]) -> Outcome:
    """From the call of `Peer.pull` to the first byte asked for, where runs are wanted in order: ids in, runs out."""
    work, wanted = f"{PLANNED[0]} runs planned", f"{_PLAN_US:g} us or {_PLAN_SORTS:g} x std::sort"
    row = rows.get((*PLANNED, "kvdirect-cma"))
    if row is not None and row.post_us > 0:
        sorts = row.post_us / 1e6 / median(yardsticks().seconds_to_sort(*_scattered(PLANNED[0]), PLANNED[1], _PLANS))
        text = f"{row.post_us:.0f} us ({row.runs} runs), {sorts:.2f} x std::sort"
        return Outcome(work, wanted, text, met=row.post_us <= _PLAN_US or sorts <= _PLAN_SORTS)
    return Outcome(work, wanted, absent("kvdirect-cma", missing), met=False)


def judge_planning() -> list[Outcome]:
    """What lane cuda_ipc plans with, block ids in and places out, in C++.

    The copy of a block takes as long as its plan may, and waits for the first part only.
    """
    outcomes = []
    for blocks, most in GROUPS:
        ids = _scattered(blocks)
        scene = (*ids, 2 * blocks, 4096, _PLANS)
        each = median(yardsticks().seconds_of_plans(*scene)) / blocks * 1e9
        products = each / (median(yardsticks().seconds_of_products(*ids, 4096, _PLANS)) / blocks * 1e9)
        first = median(yardsticks().seconds_to_launch(*scene)) * 1e6
        outcomes += [
            Outcome(
                f"{blocks} scattered blocks planned",
                f"{most:g} ns a block or {_GROUP_PRODUCTS:g} x products",
                f"{each:.2f} ns, {products:.2f} x products",
                met=each <= most or products <= _GROUP_PRODUCTS,
            ),
            Outcome(
                f"first launch of {blocks} scattered blocks",
                f"{_TO_LAUNCH_US:g} us",
                f"{first:.1f} us",
                met=first <= _TO_LAUNCH_US,
            ),
        ]
    return outcomes


def _scattered(blocks: int) -> tuple[Ids, Ids]:
    remote, local = (scattered(blocks, 2 * blocks, 1.0, seed) for seed in (1, 2))
    return remote, local


def absent(name: str, missing: dict[str, str]) -> str:
    """Why a contender has no row."""
    return missing.get(name, f"{name} did not start here")


def _contenders(pythons: dict[str, str]) -> tuple[list[Contender], dict[str, str]]:
    """Who can take part, and why the others cannot."""
    from kvtransfer.config import KNOWN_LANES  # noqa: PLC0415  (the options explain themselves without the core)

    lanes = {lane: lane_contender(lane, optional=True) for lane in KNOWN_LANES}
    missing = {
        f"kvdirect-{lane}": f"this kvtransfer has no lane {lane}"
        for lane in (*_SAME_HOST, "message")
        if lane not in lanes
    }
    threads = [lane_contender("cma", copy_threads=count, optional=True) for count in (1, 2)]
    chosen = [*(one for lane, one in lanes.items() if lane != "rdma"), *threads]
    for one in others(_PEERS):
        try:
            python_of(one, pythons)
        except BenchError as error:
            missing[one.name] = str(error)
        else:
            chosen.append(dataclasses.replace(one, optional=True))
    return chosen, missing


def _taking_part(workload: tuple[int, int], contenders: Sequence[Contender]) -> list[Contender]:
    """Those that a target of this workload speaks of: each costs time and memory."""
    these = [target for target in TARGETS if target.workload == workload]
    named = {name for target in these for name in (target.ours, *(other for other, _ in target.least))}
    if workload in {ONE, PLANNED}:
        named |= {f"kvdirect-{lane}" for lane in _SAME_HOST}
    if workload == ONE:
        named.add("nixl")
    return [one for one in contenders if one.name in named or one.name == "memcpy"]


def _options(workload: tuple[int, int], contenders: Sequence[Contender], rounds: int) -> Options:
    blocks, size = workload
    if workload == PERMUTED:
        pulled = Workload("kv", 2, 4, 512, 16, 8, size, 1.0, "2m", reader_layout="HND")
    else:
        pulled = Workload("raw", 1, 1, blocks, 1, 1, size, 1.0, "2m")
    return Options((pulled,), tuple(contenders), rounds)


if __name__ == "__main__":
    sys.exit(main())
