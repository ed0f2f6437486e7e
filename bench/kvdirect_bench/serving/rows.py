# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Results as rows: one for each contender."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvdirect_bench.spread import Ratio, median, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvdirect.harness.completions import Completion

    from .interleave import Result, Turn


@dataclass(frozen=True, slots=True)
class Row:
    """One contender. Times in milliseconds; shares are of the sum of all requests' latency, from 0 to 1.

    Attributes:
        name: The contender's.
        lane: How bytes moved, where the connector says.
        rounds: Turns that count.
        requests: In all of them together.
        ttft_ms: To the first token, median of all requests.
        ttft_p99_ms: The 99th percentile.
        tpot_ms: Per output token after the first, median.
        latency_ms: Of a whole request, median.
        wire_ms: Of a transfer, mean, as the connector's own histogram has it; None where nothing is transferred.
        wire_share: All transfers' times over all requests' latency.
        exposed_ms: From a request's arrival at the decode engine's scheduler to its first step, mean.
        exposed_share: The same over latency.
        wrong: Requests whose tokens are not those of the first contender, warm-up included.
        ratios: To every other contender, how many times as fast: ttft, tpot, latency; wire where both have it.
    """

    name: str
    lane: str
    rounds: int
    requests: int
    ttft_ms: float
    ttft_p99_ms: float
    tpot_ms: float
    latency_ms: float
    wire_ms: float | None
    wire_share: float | None
    exposed_ms: float
    exposed_share: float
    wrong: int
    ratios: dict[str, dict[str, Ratio]] = field(default_factory=dict)


def make_rows(results: Sequence[Result]) -> list[Row]:
    """A row for each result, in their order."""
    per_round = {result.name: _per_round(result.turns) for result in results}
    return [_row(result, per_round) for result in results]


def _per_round(turns: Sequence[Turn]) -> dict[str, list[float]]:
    """Each round's figure, by its name."""
    figures = {
        "ttft": [median([one.ttft for one in turn.completions]) for turn in turns],
        "tpot": [median([_per_token(one) for one in turn.completions]) for turn in turns],
        "latency": [median([one.seconds for one in turn.completions]) for turn in turns],
    }
    if all(turn.counted.transfers for turn in turns):
        figures["wire"] = [turn.counted.wire / turn.counted.transfers for turn in turns]
    return figures


def _row(result: Result, per_round: dict[str, dict[str, list[float]]]) -> Row:
    turns, mine = result.turns, per_round[result.name]
    requests = [one for turn in turns for one in turn.completions]
    latency = sum(one.seconds for one in requests)
    wire = sum(turn.counted.wire for turn in turns)
    transfers = sum(turn.counted.transfers for turn in turns)
    queued = sum(turn.counted.queued for turn in turns)
    return Row(
        name=result.name,
        lane="+".join(sorted({lane for turn in turns for lane, _ in turn.counted.lanes})),
        rounds=len(turns),
        requests=len(requests),
        ttft_ms=median([one.ttft for one in requests]) * 1e3,
        ttft_p99_ms=percentile([one.ttft for one in requests], 0.99) * 1e3,
        tpot_ms=median([_per_token(one) for one in requests]) * 1e3,
        latency_ms=median([one.seconds for one in requests]) * 1e3,
        wire_ms=wire / transfers * 1e3 if transfers else None,
        wire_share=wire / latency if transfers else None,
        exposed_ms=queued / len(requests) * 1e3,
        exposed_share=queued / latency,
        wrong=result.warmup_wrong + sum(turn.wrong for turn in turns),
        ratios={
            other: {name: Ratio.of(mine[name], theirs[name]) for name in mine if name in theirs}
            for other, theirs in per_round.items()
            if other != result.name
        },
    )


def _per_token(one: Completion) -> float:
    return (one.seconds - one.ttft) / (len(one.tokens) - 1)
