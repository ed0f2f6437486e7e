# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""How long an epoch takes, by where its rows come from: the same trainer, in turns."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .fetch import Clock
from .train import SageTrainer, source_of, write_report

if TYPE_CHECKING:
    from .fetch import Source
    from .train import SageSettings


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is compared; plain data.

    Attributes:
        sage: The training; its `stores` are those of features.
        shards: Processes of the RPC store.
        rounds: Epochs that each source has.
    """

    sage: SageSettings
    shards: int
    rounds: int


def compare(settings: CompareSettings) -> None:
    """Train for an epoch with each source in turn, each time from the start; leave times, ratios and losses."""
    sage = settings.sage
    task = sage.graph.task()
    room = SageTrainer(sage, task).most_rows()
    sources: dict[str, tuple[Source, int]] = {
        "own memory": (source_of(replace(sage, stores=()), room), sage.depth),
        "stores": (source_of(sage, room), sage.depth),
        "rpc": (source_of(replace(sage, rpc=settings.shards), room), 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    clocks: dict[str, Clock] = {}
    losses: dict[str, list[float]] = {}
    names = list(sources)
    for number in range(-1, settings.rounds):
        for name in names[number % 3 :] + names[: number % 3]:
            source, depth = sources[name]
            trainer, clock = SageTrainer(sage, task), Clock()
            begin = time.perf_counter()
            got = trainer.epoch(0, source, clock, depth)
            taken = time.perf_counter() - begin
            if losses.setdefault(name, got) != got:
                raise AssertionError(f"rows of {name}: other losses than before, with the same seed")
            if number >= 0:  # the first round warms up
                seconds[name].append(taken)
            clocks[name] = clock
        print(f"graph: compare: round {number + 2} of {settings.rounds + 1}", flush=True)
    for source, _ in sources.values():
        source.close()
    report: dict[str, Any] = {
        "seconds": seconds,
        "equal": all(found == losses["own memory"] for found in losses.values()),
        "stores_to_own": _ratio(seconds["stores"], seconds["own memory"]),
        "stores_to_rpc": _ratio(seconds["stores"], seconds["rpc"]),
        "spans": {name: clock.spans for name, clock in clocks.items()},
    }
    write_report(sage.out, report)


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
