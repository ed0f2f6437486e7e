# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Workloads: when requests come, and how long they are. The same seed gives the same requests."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect_bench.errors import BenchUsageError

from .jobs import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

GAPS = ("poisson", "fixed")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with one kind of request.

    Attributes:
        seconds: How long requests come.
        rate: Requests a second, of the whole cluster.
        prompt: Tokens of a prompt, on average.
        outputs: Tokens that each generates, on average.
        spread: 0: all are of that length; 0.5: between half and one and a half of it, evenly.
    """

    seconds: float
    rate: float
    prompt: int
    outputs: int
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("seconds", 0.0), ("rate", 0.0)):
            if not least < getattr(self, name) < math.inf:
                raise BenchUsageError(f"{name} of a workload {getattr(self, name):g}: expected more than 0, and finite")
        if self.prompt < 2:
            raise BenchUsageError(
                f"prompts of {self.prompt} tokens: expected at least 2, for the last is computed by the reader"
            )
        if self.outputs < 1:
            raise BenchUsageError(f"{self.outputs} tokens to generate: expected at least 1")
        if not 0 <= self.spread < 1:
            raise BenchUsageError(f"a spread of {self.spread:g}: expected 0 to less than 1")


def requests(phases: Sequence[Phase], *, gaps: str = "poisson", seed: int = 1) -> list[Request]:
    """All requests of phases that follow each other, in order.

    Args:
        phases: At least one.
        gaps: Between requests: `poisson`, or `fixed`, all the same.
        seed: Of the random numbers.

    Raises:
        BenchUsageError: There are no phases, or no such gaps.
    """
    if not phases:
        raise BenchUsageError("a workload without phases: expected at least one")
    if gaps not in GAPS:
        raise BenchUsageError(f"gaps {gaps}: expected {' or '.join(GAPS)}")
    chance = random.Random(seed)  # noqa: S311
    found: list[Request] = []
    begin = 0.0
    for number, phase in enumerate(phases):
        now = begin
        while True:
            now += chance.expovariate(phase.rate) if gaps == "poisson" else 1 / phase.rate
            if now >= begin + phase.seconds:
                break
            found.append(
                Request(
                    len(found),
                    now,
                    max(2, round(phase.prompt * (1 + phase.spread * chance.uniform(-1, 1)))),
                    max(1, round(phase.outputs * (1 + phase.spread * chance.uniform(-1, 1)))),
                    phase=number,
                )
            )
        begin += phase.seconds
    return found
