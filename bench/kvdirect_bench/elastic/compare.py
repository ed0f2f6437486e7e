# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The same trace by real engines and in simulation: figures of both, and how far they are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.cluster.points import Slo
from kvdirect_bench.report import Outcome, aligned
from kvdirect_bench.spread import median

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvdirect_bench.cluster.jobs import Request
    from kvdirect_bench.cluster.workloads import Phase

    from .trace import Played
    from .watch import RoleChange

ALLOWED = 0.15
# Seconds that a change of roles may take until the old role has ended.
CHANGE_WITHIN = 5.0
SLO = Slo(ttft=2.0, tpot=0.120)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of requests of one phase, or of all. Times in seconds.

    Attributes:
        good: Good requests a second.
        ttft: To the first token, median.
        tpot: A token after that, median.
        latency: Of whole requests, mean.
    """

    good: float
    ttft: float
    tpot: float
    latency: float

    @classmethod
    def of(cls, requests: Sequence[Request], seconds: float) -> Figures:
        """Of those that came in so many seconds."""
        return cls(
            sum(SLO.kept(one) for one in requests) / seconds,
            median([one.ttft for one in requests]),
            median([one.tpot for one in requests]),
            sum(one.latency for one in requests) / len(requests),
        )


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    name: str
    take: Callable[[Figures], float]
    shown: str


_COLUMNS = (
    _Column("good a second", "good requests", lambda one: one.good, "{:.2f}"),
    _Column("TTFT ms", "TTFT", lambda one: one.ttft * 1e3, "{:.0f}"),
    _Column("ms/token", "a token", lambda one: one.tpot * 1e3, "{:.1f}"),
    _Column("latency ms", "latency", lambda one: one.latency * 1e3, "{:.0f}"),
)


def compare(
    played: Sequence[Request], simulated: Sequence[Request], phases: Sequence[Phase]
) -> tuple[list[str], list[Outcome]]:
    """A table of each phase's figures and the whole trace's; of the latter, whether the simulation agrees."""
    parts: list[tuple[str, int | None, float]] = [
        (f"phase {number + 1}", number, phase.seconds) for number, phase in enumerate(phases)
    ]
    parts.append(("all", None, sum(phase.seconds for phase in phases)))
    lines: list[tuple[str, ...]] = [("", *(word for one in _COLUMNS for word in (one.title, "simulated", "")))]
    outcomes = []
    for name, number, seconds in parts:
        both = [[one for one in found if number is None or one.phase == number] for found in (played, simulated)]
        words = [name]
        for column in _COLUMNS:
            work, wanted = f"{name}, {column.name}", f"within {ALLOWED:.0%}"
            if not all(both):
                words += ["-", "-", ""]
                outcomes.append(Outcome(work, wanted, "none was answered", met=False))
                continue
            ours, theirs = (column.take(Figures.of(found, seconds)) for found in both)
            change = theirs / ours - 1 if ours else 0.0 if theirs == ours else float("inf")
            words += [column.shown.format(ours), column.shown.format(theirs), f"{change:+.0%}"]
            if number is None:
                outcomes.append(Outcome(work, wanted, f"{change:+.1%}", met=abs(change) <= ALLOWED))
        lines.append(tuple(words))
    return aligned(lines, left=1), outcomes


def judge_live(played: Played, changes: Sequence[RoleChange]) -> list[Outcome]:
    """Whether no request was lost, and how long the changes of roles took."""
    lost = len(played.lost)
    slowest = max((one.drained for one in changes), default=float("inf"))
    return [
        Outcome(f"of {len(played.done) + lost} requests, lost", "0", str(lost), not lost),
        Outcome(
            f"{len(changes)} changes of roles, the slowest",
            f"within {CHANGE_WITHIN:g} s",
            f"{slowest:.1f} s",
            slowest <= CHANGE_WITHIN,
        ),
    ]
