# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Medians of the turns as a table, and what the router must reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from operator import le
from typing import TYPE_CHECKING

from kvdirect_bench.report import Outcome, aligned
from kvdirect_bench.spread import median, percentile

from .contenders import OTHER, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .load import Measured
    from .workload import Workload

_HEADER = ("workload", "router", "requests/s", "events/s", "first byte p50 ms", "p99 ms", "CPU ms a request", "wrong")


@dataclass(frozen=True, slots=True)
class Turn:
    """One router's turn at one workload; `number` is the round's, `cpu` the router's processor seconds."""

    router: str
    workload: Workload
    number: int
    measured: Measured
    cpu: float

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return self.measured.requests / self.measured.seconds

    @property
    def first_byte(self) -> float:
        """Milliseconds, the median of all requests."""
        return self.late(0.5)

    def late(self, share: float) -> float:
        """Milliseconds within which such a share of the requests had their first byte."""
        return percentile(self.measured.first_byte or [0.0], share) * 1e3


def table(turns: Sequence[Turn]) -> str:
    """One line for each workload and router."""
    workloads = dict.fromkeys(turn.workload for turn in turns)
    routers = sorted({turn.router for turn in turns})
    lines = [_line(workload, router, _of(turns, router, workload)) for workload in workloads for router in routers]
    return "\n".join(aligned([_HEADER, *lines], left=1))


def _line(workload: Workload, router: str, turns: Sequence[Turn]) -> tuple[str, ...]:
    rate = median([turn.rate for turn in turns])
    return (
        workload.name,
        router,
        f"{rate:.0f}",
        f"{rate * workload.events:.0f}" if workload.events else "",
        f"{median([turn.first_byte for turn in turns]):.1f}",
        f"{median([turn.late(0.99) for turn in turns]):.1f}",
        f"{median([turn.cpu / max(1, turn.measured.requests) * 1e3 for turn in turns]):.2f}",
        str(sum(turn.measured.wrong for turn in turns)),
    )


def judge(turns: Sequence[Turn]) -> list[Outcome]:
    """The bars, each a median of the rounds' ratios."""
    known = {turn.router for turn in turns}
    judged = []
    for workers, least in ((1, 0.5), (2, 0.8)):
        work = f"256 streams, {name_of(workers)}: requests/s and events/s"
        ratios = _ratios(turns, name_of(workers), lambda turn: turn.rate)
        judged.append(_outcome(work, f"{least:g} x {OTHER}", ratios, partial(le, least)))
    ratios = _ratios(turns, name_of(1), lambda turn: turn.first_byte)
    judged.append(_outcome("256 streams: first byte p50", f"at most 2 x {OTHER}", ratios, lambda ratio: ratio <= 2))
    for name in sorted(known - {OTHER}):
        many, few = (
            [turn.rate for turn in turns if (turn.router, turn.workload.name) == (name, work)]
            for work in ("1000 streams", "32 streams")
        )
        ratios = [ratio / other for ratio, other in zip(many, few, strict=True)]
        judged.append(_outcome(f"1000 streams, {name}", "what 32 have", ratios, lambda ratio: ratio >= 1))
    return judged


def _ratios(turns: Sequence[Turn], router: str, value: Callable[[Turn], float]) -> list[float]:
    both = [
        [value(turn) for turn in turns if (turn.router, turn.workload.name) == (name, "256 streams")]
        for name in (router, OTHER)
    ]
    return [our / their for our, their in zip(*both, strict=False)]


def _outcome(work: str, wanted: str, ratios: Sequence[float], met: Callable[[float], bool]) -> Outcome:
    if not ratios:
        return Outcome(work, wanted, "not measured", met=False)
    middle = median(ratios)
    return Outcome(work, wanted, f"{middle:.2f} [{min(ratios):.2f}-{max(ratios):.2f}]", met=met(middle))


def _of(turns: Sequence[Turn], router: str, workload: Workload) -> list[Turn]:
    return [turn for turn in turns if turn.router == router and turn.workload == workload]
