# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Simulations to run, several at a time, and what is kept of each."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kvdirect_bench.errors import BenchUsageError
from kvdirect_bench.spread import percentile

from .cluster import simulate
from .workloads import requests

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from .cluster import Cluster, Result
    from .jobs import Request
    from .workloads import Phase

_Key = TypeVar("_Key", bound="Hashable")
# A queue grows where the later half of the requests takes so many times as long as the earlier half.
_GROWS = 1.25


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to count as good: seconds to the first token, and a token after that."""

    ttft: float
    tpot: float

    def kept(self, request: Request) -> bool:
        """Whether it did."""
        return request.ttft <= self.ttft and request.tpot <= self.tpot


@dataclass(frozen=True, slots=True)
class Point:
    """One simulation.

    Attributes:
        cluster: What serves.
        phases: What comes.
        gaps: Between requests.
        seed: Of the workload.
        slo: What counts as good; None: nothing is counted.
        only: Of all these requests only those of this phase come: just the same ones, at the same times. None: all.
    """

    cluster: Cluster
    phases: tuple[Phase, ...]
    gaps: str = "poisson"
    seed: int = 1
    slo: Slo | None = None
    only: int | None = None

    def __post_init__(self) -> None:
        if self.only is not None and not 0 <= self.only < len(self.phases):
            raise BenchUsageError(f"only {self.only}: expected 0 to {len(self.phases) - 1}")


@dataclass(frozen=True, slots=True)
class Figures:
    """What is kept of a simulation. Times in seconds, means unless they say otherwise.

    Attributes:
        requests: How many.
        latency: Of whole requests.
        latency_p99: Their 99th percentile.
        ttft: To the first token.
        ttft_p99: The 99th percentile.
        tpot: A token after the first.
        exposed: From the end of prefill to the end of the transfer.
        grows: The later half of the requests took much longer than the earlier one: a queue grows without a bound.
        busiest: The largest part of a link's speed that was used.
        fullest: The largest part of a cache that was taken.
        preempted: How often blocks were taken away.
        good: Good requests a second, of each phase.
        changes: Of roles: when, to which role, and how many instances prefill from then on.
    """

    requests: int
    latency: float
    latency_p99: float
    ttft: float
    ttft_p99: float
    tpot: float
    exposed: float
    grows: bool
    busiest: float
    fullest: float
    preempted: int
    good: tuple[float, ...]
    changes: tuple[tuple[float, str, int], ...]

    @property
    def goodput(self) -> float:
        """Good requests a second over all phases, which are equally long."""
        return sum(self.good) / len(self.good)


def figures(result: Result, slo: Slo | None, phases: Sequence[Phase]) -> Figures:
    """Of one simulation."""
    done = result.requests
    half = len(done) // 2
    latencies, ttfts = [one.latency for one in done], [one.ttft for one in done]
    good = [0.0] * len(phases)
    for one in done:
        if slo is not None and slo.kept(one):
            good[one.phase] += 1 / phases[one.phase].seconds
    return Figures(
        requests=len(done),
        latency=_mean(latencies),
        latency_p99=percentile(latencies, 0.99),
        ttft=_mean(ttfts),
        ttft_p99=percentile(ttfts, 0.99),
        tpot=_mean([one.tpot for one in done]),
        exposed=_mean([one.exposed for one in done]),
        grows=half > 0 and _mean(latencies[half:]) > _GROWS * _mean(latencies[:half]),
        busiest=max(link.busiest for one in result.instances for link in (one.out, one.into)),
        fullest=max(1 - one.engine.blocks.least / one.engine.blocks.total for one in result.instances),
        preempted=sum(one.preempted for one in done),
        good=tuple(good),
        changes=tuple((one.joined, one.role, one.prefill) for one in result.changes),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def coming(point: Point) -> list[Request]:
    """The requests of one simulation, in order."""
    found = requests(point.phases, gaps=point.gaps, seed=point.seed)
    return found if point.only is None else [one for one in found if one.phase == point.only]


def run(point: Point) -> Figures:
    """One simulation."""
    return figures(simulate(point.cluster, coming(point)), point.slo, point.phases)


def run_all(points: Mapping[_Key, Point], processes: int = 0) -> dict[_Key, Figures]:
    """All of them, by their keys.

    Args:
        points: What to run.
        processes: At a time; 0: as many as there are CPUs.
    """
    processes = processes or len(os.sched_getaffinity(0))
    if processes == 1:
        return {key: run(point) for key, point in points.items()}
    with ProcessPoolExecutor(processes) as pool:
        return dict(zip(points, pool.map(run, points.values(), chunksize=1), strict=True))
