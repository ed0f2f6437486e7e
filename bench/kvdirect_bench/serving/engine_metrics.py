# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Reads what an engine counted of its requests and transfers, from vLLM's own metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvdirect.harness.accounting import metrics, total
from kvdirect_bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prometheus_client.samples import Sample

# From a request's arrival in the scheduler to its first step. A request that waits for its cache is in no step, so
# this covers parking, the transfer and promotion, whatever the connector.
QUEUED = "vllm:request_queue_time_seconds"
# A request is answered before the statistics of its last step are published.
_DEADLINE = 15.0
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Counted:
    """Requests and transfers so far, or since some moment; times in seconds, summed over all of them."""

    requests: int
    queued: float
    transfers: int
    wire: float
    lanes: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, samples: Sequence[Sample], histogram: str) -> Counted:
        """What a page of metrics says; `histogram` "" means that nothing is transferred."""
        lanes: dict[str, int] = {}
        for sample in samples:
            if histogram and sample.name == f"{histogram}_count" and "lane" in sample.labels:
                lane = sample.labels["lane"]
                lanes[lane] = lanes.get(lane, 0) + int(sample.value)
        return cls(
            int(total(samples, f"{QUEUED}_count")),
            total(samples, f"{QUEUED}_sum"),
            int(total(samples, f"{histogram}_count")) if histogram else 0,
            total(samples, f"{histogram}_sum") if histogram else 0.0,
            tuple(sorted(lanes.items())),
        )

    def __sub__(self, other: Counted) -> Counted:
        """What came since `other`; lanes that carried nothing since are left out."""
        before = dict(other.lanes)
        lanes = ((lane, count - before.get(lane, 0)) for lane, count in self.lanes)
        return Counted(
            self.requests - other.requests,
            self.queued - other.queued,
            self.transfers - other.transfers,
            self.wire - other.wire,
            tuple((lane, count) for lane, count in lanes if count),
        )


class EngineMetrics:
    """One engine's counts, taken after each batch of requests."""

    def __init__(self, url: str, histogram: str, log: Path) -> None:
        """Start counting now; `log` is named where transfers are missing."""
        self._url = url
        self._histogram = histogram
        self._log = log
        self._last = self._read()

    def advance(self, requests: int) -> Counted:
        """What was counted since the last call, once `requests` more have been.

        Raises:
            BenchError: They are not all counted, or not each one's cache was transferred.
        """
        deadline = time.monotonic() + _DEADLINE
        while True:
            now = self._read()
            since = now - self._last
            complete = since.transfers >= requests or not self._histogram
            if since.requests >= requests and complete:
                self._last = now
                return since
            if time.monotonic() > deadline:
                transfers = f" and {since.transfers} transfers" if self._histogram else ""
                raise BenchError(
                    f"of {requests} requests the engine that decodes counted {since.requests}{transfers}; "
                    f"{self._log} may say why"
                )
            time.sleep(_PAUSE)

    def _read(self) -> Counted:
        return Counted.of(metrics(self._url), self._histogram)
