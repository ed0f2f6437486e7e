# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Prometheus text as numbers: sums, growth between two scrapes, quantiles of histograms."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from kvdirect.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# What is not said here is dropped unread: an engine has hundreds of series that nobody looks at.
_WANTED = ("kvdirect_router_", "vllm:kvdirect_", "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_ca")
_MOST_LINES = 20_000
_LONGEST_LINE = 4096

Labels = frozenset[tuple[str, str]]


class Samples:
    """One scrape."""

    def __init__(self, series: Mapping[str, Mapping[Labels, float]]) -> None:
        self._series = series

    @classmethod
    def parse(cls, raw: bytes) -> Samples:
        """Read what an exporter sent, which may be anything.

        Raises:
            WireError: It is not Prometheus's text.
        """
        lines = [line for line in raw.decode("utf-8", "replace").split("\n") if line.startswith(_WANTED)]
        if len(lines) > _MOST_LINES or any(len(line) > _LONGEST_LINE for line in lines):
            raise WireError(f"/metrics has more than {_MOST_LINES} series of ours, or lines beyond {_LONGEST_LINE}")
        series: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
        try:
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    if math.isfinite(sample.value):
                        series[sample.name][frozenset(sample.labels.items())] = sample.value
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # whatever its parser stumbles over
            raise WireError(f"/metrics is not Prometheus's text: {error}") from error
        return cls(series)

    def of(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """The series of a metric."""
        for labels, value in self._series.get(name, {}).items():
            yield dict(labels), value

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        return sum(value for found, value in self.of(name) if labels.items() <= found.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums by one label, in the order of its values."""
        sums: defaultdict[str, float] = defaultdict(float)
        for found, value in self.of(name):
            sums[found.get(label, "")] += value
        return dict(sorted(sums.items()))

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """Of a histogram: how many were at most so large, by that edge, ascending."""
        sums: defaultdict[float, float] = defaultdict(float)
        for found, value in self.of(f"{name}_bucket"):
            if labels.items() <= found.items():
                try:
                    sums[float(found.get("le", ""))] += value
                except ValueError:
                    continue
        return dict(sorted(sums.items()))


def grown(now: float, before: float) -> float:
    """By how much a counter grew; one that is smaller than before has started over."""
    return now - before if now >= before else now


def quantile(share: float, now: Mapping[float, float], before: Mapping[float, float]) -> float | None:
    """Where this share of what came in between lies, evenly spread within a bucket; None if nothing came.

    Args:
        share: 0 to 1.
        now: `Samples.buckets` of a histogram.
        before: The same, earlier.
    """
    counts = [(edge, grown(count, before.get(edge, 0.0))) for edge, count in now.items()]
    return _at(share, counts)


def _at(share: float, counts: Sequence[tuple[float, float]]) -> float | None:
    wanted = share * counts[-1][1] if counts else 0.0
    if wanted <= 0:
        return None
    low, under = 0.0, 0.0
    for edge, count in counts:
        if count >= wanted:
            if math.isinf(edge):
                return low  # beyond the last edge; as Prometheus says it
            return low + (edge - low) * ((wanted - under) / (count - under) if count > under else 1.0)
        low, under = edge, count
    return None
