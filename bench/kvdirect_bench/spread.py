# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Medians, percentiles, and ratios with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return percentile(values, 0.5)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast: the median of the rounds' ratios, and the interval that nine in ten of them lie in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """From seconds per round, paired by round: above 1 means that `ours` took less time."""
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        return cls(median(ratios), percentile(ratios, 0.05), percentile(ratios, 0.95))

    def __str__(self) -> str:
        """Median and interval."""
        return f"{self.median:.2f} [{self.low:.2f}-{self.high:.2f}]"
