# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Medians of the turns as a table, and what gathers must reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.report import Outcome, aligned
from kvdirect_bench.spread import Ratio, median

from .contenders import GRPC, RAY, TAKE, TORCH
from .workload import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .workload import Workload

_HEADER = ("workload", "contender", "ms", "GB/s", "x take", "wrong")
# Of 400 byte rows: contender, other, at least so many times as fast.
_BARS = (
    ("kvdirect shm", TAKE, 0.5),
    *(("kvdirect shm", other, 4.0) for other in (TORCH, GRPC, RAY)),
    *(("kvdirect message", other, 1.2) for other in (TORCH, GRPC)),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's gather in one round; `number` is the round's, below 0 where it does not count."""

    workload: Workload
    contender: str
    number: int
    seconds: float
    wrong: int


def table(turns: Sequence[Turn]) -> str:
    """One line for each workload and contender."""
    lines = []
    for workload in dict.fromkeys(turn.workload for turn in turns):
        take = median(_seconds(turns, workload, TAKE))
        for name in sorted({turn.contender for turn in turns}):
            middle = median(_seconds(turns, workload, name))
            rate = workload.wanted * workload.width * 4 / middle / 1e9
            wrong = sum(turn.wrong for turn in turns if (turn.workload, turn.contender) == (workload, name))
            line = (f"{middle * 1e3:.2f}", f"{rate:.2f}", f"{middle / take:.2f}", str(wrong))
            lines.append((workload.name, name, *line))
    return "\n".join(aligned([_HEADER, *lines], left=2))


def judge(turns: Sequence[Turn]) -> list[Outcome]:
    """The bars, each a median of the rounds' ratios."""
    first = WORKLOADS[0]
    judged = []
    for name, other, least in _BARS:
        ours, theirs = _seconds(turns, first, name), _seconds(turns, first, other)
        wanted = f"{least:g} x as fast as {other}"
        if not ours or not theirs:
            judged.append(Outcome(f"{first.name}, {name}", wanted, "not measured", met=False))
            continue
        ratio = Ratio.of(ours, theirs)
        judged.append(Outcome(f"{first.name}, {name}", wanted, str(ratio), met=ratio.median >= least))
    return judged


def _seconds(turns: Sequence[Turn], workload: Workload, name: str) -> list[float]:
    mine = [turn for turn in turns if (turn.workload, turn.contender) == (workload, name) and turn.number >= 0]
    return [turn.seconds for turn in sorted(mine, key=lambda turn: turn.number)]
