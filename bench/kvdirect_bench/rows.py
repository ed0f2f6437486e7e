# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Results as rows: one for each engine and workload."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .block_ids import count_runs
from .spread import Ratio, median, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .interleave import Result
    from .workload import Workload

MEMCPY = "memcpy"
DEVICE_COPY = "device-copy"
# Any seed: how many runs a pull has hardly depends on which blocks it names.
_SEED = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One engine at one workload.

    Attributes:
        workload: What was pulled, in words.
        name: The contender's.
        engine: "kvdirect", or a backend with its setting.
        lane: How bytes moved.
        pages: Kind of pages that the reader's memory was on.
        fragmentation: As asked for.
        block_bytes: Bytes of a piece that is contiguous on both sides.
        blocks: Such pieces in a pull.
        runs: What they were carried in after merging; as the engine says, else as they could be.
        bytes: Of a pull.
        gbps: 10^9 bytes a second, of the median pull.
        p50_us: Microseconds of the median pull, from the call to its validated end.
        p99_us: The 99th percentile of all pulls.
        post_us: Median until the first byte was asked for, where the engine says.
        wrong: Bytes that were wrong in all rounds, warm-up included.
        rounds: Turns that count.
        pulls: In all of them together.
        ratio_to_memcpy: Median of the rounds' ratios to one thread's memcpy; None without --vs memcpy.
        ratios: To every other contender: how many times as fast.
        ratio_to_device_copy: As ratio_to_memcpy, to the GPU's own copy of as many bytes; None without it.
    """

    workload: str
    name: str
    engine: str
    lane: str
    pages: str
    fragmentation: float
    block_bytes: int
    blocks: int
    runs: int
    bytes: int
    gbps: float
    p50_us: float
    p99_us: float
    post_us: float
    wrong: int
    rounds: int
    pulls: int
    ratio_to_memcpy: float | None
    ratios: dict[str, Ratio] = field(default_factory=dict)
    ratio_to_device_copy: float | None = None


def make_rows(workload: Workload, results: Sequence[Result]) -> list[Row]:
    """A row for each result, in their order."""
    per_round = {result.contender.name: [median(turn.seconds) for turn in result.turns] for result in results}
    merged = count_runs(*workload.unit_tables(_SEED))
    return [_row(workload, result, per_round, merged) for result in results]


def _row(workload: Workload, result: Result, per_round: dict[str, list[float]], merged: int) -> Row:
    name = result.contender.name
    seconds = [value for turn in result.turns for value in turn.seconds]
    posts = [value for turn in result.turns for value in turn.posts]
    ratios = {other: Ratio.of(per_round[name], theirs) for other, theirs in per_round.items() if other != name}
    runs = result.turns[-1].runs
    return Row(
        workload=workload.label,
        name=name,
        engine=result.contender.engine,
        lane=str(result.facts.get("lane", "")),
        pages=str(result.facts.get("pages", "")),
        fragmentation=workload.fragmentation,
        block_bytes=workload.unit_bytes,
        blocks=workload.units,
        runs=merged if runs is None else runs,
        bytes=workload.pull_bytes,
        gbps=workload.pull_bytes / median(seconds) / 1e9,
        p50_us=median(seconds) * 1e6,
        p99_us=percentile(seconds, 0.99) * 1e6,
        post_us=median(posts) * 1e6,
        wrong=result.warmup_wrong + sum(turn.wrong for turn in result.turns),
        rounds=len(result.turns),
        pulls=len(seconds),
        ratio_to_memcpy=_ratio_to(MEMCPY, name, ratios),
        ratios=ratios,
        ratio_to_device_copy=_ratio_to(DEVICE_COPY, name, ratios),
    )


def _ratio_to(yardstick: str, name: str, ratios: dict[str, Ratio]) -> float | None:
    if name == yardstick:
        return 1.0
    return ratios[yardstick].median if yardstick in ratios else None
