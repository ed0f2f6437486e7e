# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the plugin counts, in the shape that vLLM carries from worker to logger and to /metrics.

Imported in the API server process as well, so nothing native is loaded from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm.config import VllmConfig

_SECONDS = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0, 30.0]
_BYTES = [2**power for power in range(11, 35, 2)]
_RUNS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536]


@dataclass
class KVDirectStats(KVConnectorStats):
    """Observations since they were last taken; `data` holds lists and counts only, because it is serialised.

    `pulls` has one [lane, bytes, seconds, post seconds, runs] for each valid pull, `streams` one [lane, bytes that were
    here before the last piece was asked for, seconds from then on] for each that was read along with its prefill,
    `failures` counts by reason what
    did not arrive or got no lease, `granted` counts leases of this engine, `leases` by reason how they ended,
    `handshakes` by outcome what readers and strangers were answered, `returns` tickets that routers gave back,
    `without_ticket` requests that came to an engine that only reads, and named no other engine's cache.
    """

    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data:
            self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.data = {"pulls": [], "failures": {}, "granted": 0, "leases": {}, "handshakes": {}, "returns": {}}
        self.data["without_ticket"] = 0
        self.data["streams"] = []

    def record_pull(self, lane: str, moved: int, seconds: float, post_seconds: float, runs: int) -> None:
        """A pull ended valid."""
        self.data["pulls"].append([lane, moved, seconds, post_seconds, runs])

    def record_stream(self, lane: str, early: int, exposed: float) -> None:
        """A pull ended valid that was read along with its prefill: what of it did, and how long the rest took."""
        self.data["streams"].append([lane, early, exposed])

    def record_failure(self, reason: str) -> None:
        """A request did not get its cache from elsewhere, or its readers get no lease."""
        self.data["failures"][reason] = self.data["failures"].get(reason, 0) + 1

    def record_lease_grant(self) -> None:
        """This engine grants a lease; its end is recorded too, once, however it ends."""
        self.data["granted"] += 1

    def record_lease_end(self, reason: str) -> None:
        """A lease of this engine ended."""
        self.data["leases"][reason] = self.data["leases"].get(reason, 0) + 1

    def record_return(self, outcome: str) -> None:
        """A router gave a ticket of this engine back."""
        self.data["returns"][outcome] = self.data["returns"].get(outcome, 0) + 1

    def record_without_ticket(self) -> None:
        """A request came without a ticket to an engine that only reads."""
        self.data["without_ticket"] += 1

    def record_handshakes(self, counts: Mapping[str, int]) -> None:
        """These came to the handshake port since this was last said, by outcome."""
        for outcome, count in counts.items():
            self.data["handshakes"][outcome] = self.data["handshakes"].get(outcome, 0) + count

    def take(self) -> KVDirectStats | None:
        """What was recorded, which starts over; None if that is nothing."""
        if self.is_empty():
            return None
        taken = KVDirectStats(self.data)
        self.reset()
        return taken

    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> KVDirectStats:
        """Add what another rank or an earlier interval recorded."""
        if not other.is_empty():
            for figures in ("pulls", "streams"):
                self.data[figures].extend(other.data[figures])
            for number in ("granted", "without_ticket"):
                self.data[number] += other.data[number]
            for table in ("failures", "leases", "handshakes", "returns"):
                for reason, count in other.data[table].items():
                    self.data[table][reason] = self.data[table].get(reason, 0) + count
        return self

    def reduce(self) -> dict[str, int | float]:
        """One line's worth for the log."""
        pulls = self.data["pulls"]
        line: dict[str, int | float] = {"Num successful transfers": len(pulls)}
        if pulls:
            moved, seconds, post, runs = (np.asarray([pull[i] for pull in pulls], dtype=float) for i in range(1, 5))
            line |= {
                "Avg xfer time (ms)": round(float(seconds.mean()) * 1e3, 3),
                "P90 xfer time (ms)": round(float(np.percentile(seconds, 90)) * 1e3, 3),
                "Avg post time (ms)": round(float(post.mean()) * 1e3, 3),
                "Avg MB per transfer": round(float(moved.mean()) / 2**20, 3),
                "Throughput (MB/s)": round(float(moved.sum()) / 2**20 / max(float(seconds.sum()), 1e-9), 3),
                "Avg number of runs": round(float(runs.mean()), 1),
            }
            for lane in sorted({pull[0] for pull in pulls}):
                line[f"Transfers over {lane}"] = sum(pull[0] == lane for pull in pulls)
        if self.data["streams"]:
            line["Streamed (MB)"] = round(sum(early for _, early, _ in self.data["streams"]) / 2**20, 3)
        if self.data["without_ticket"]:
            line["Requests without a ticket"] = self.data["without_ticket"]
        line |= {f"Failed ({reason})": count for reason, count in sorted(self.data["failures"].items())}
        line |= {f"Leases {reason}": count for reason, count in sorted(self.data["leases"].items())}
        line |= {f"Tickets given back ({outcome})": count for outcome, count in sorted(self.data["returns"].items())}
        line |= {f"Handshakes {outcome}": count for outcome, count in sorted(self.data["handshakes"].items())}
        return line


class KVDirectPromMetrics(KVConnectorPromMetrics):
    """The same, on /metrics. Pulls carry their lane, failures and lease ends their reason, as a label."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._of_pulls = (  # in the order in which a pull's figures are recorded
            self._histogram("bytes_transferred", "Bytes of a KV cache pull.", _BYTES),
            self._histogram(
                "xfer_time_seconds", "Time of a KV cache pull, first byte asked for to validated.", _SECONDS
            ),
            self._histogram("post_time_seconds", "Time to start a KV cache pull.", _SECONDS),
            self._histogram("num_runs", "Contiguous pieces of a KV cache pull.", _RUNS),
        )
        self._of_streams = (  # the same
            self._histogram("streamed_bytes", "Bytes of a KV cache pull that came while it was computed.", _BYTES),
            self._histogram(
                "exposed_time_seconds", "Time of the last piece of a KV cache pull that began before.", _SECONDS
            ),
        )
        self._failures = self._counter("num_failed_transfers", "Requests whose KV cache did not arrive.", "reason")
        self._ends = self._counter("num_ended_leases", "Leases of this engine that ended.", "reason")
        text = "Handshakes that this engine answered, refused, or dropped."
        self._handshakes = self._counter("num_handshakes", text, "outcome")
        text = "Tickets that routers gave back: freed, or unknown (late, or never this engine's)."
        self._returns = self._counter("num_returned_tickets", text, "outcome")
        text = "Leases that this engine granted; those that have not ended are held."
        self._granted = self._counter("num_granted_leases", text)
        text = "Prefilled requests whose lease ran out before a reader completed it."
        self._expired = self._counter("num_kv_expired_reqs", text)
        text = "Requests that came without a ticket to an engine that only reads (kv_consumer)."
        self._without_ticket = self._counter("num_requests_without_ticket", text)
        for values in per_engine_labelvalues.values():
            # Prometheus sees the first of a kind only where there was a 0 before it.
            for counter, kinds in (
                (self._handshakes, ("welcomed", "refused")),
                (self._ends, ("completed", "expired", "revoked", "max_hold")),
                (self._returns, ("freed", "unknown")),
            ):
                for kind in kinds:
                    counter.labels(*values, kind)
            self._without_ticket.labels(*values)
            self._granted.labels(*values)
            self._expired.labels(*values)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Record what one engine sent."""
        values = self.per_engine_labelvalues[engine_idx]
        for kind, histograms in (("pulls", self._of_pulls), ("streams", self._of_streams)):
            for lane, *figures in transfer_stats_data[kind]:
                for histogram, figure in zip(histograms, figures, strict=True):
                    histogram.labels(*values, lane).observe(figure)
        for reason, count in transfer_stats_data["failures"].items():
            self._failures.labels(*values, reason).inc(count)
        self._granted.labels(*values).inc(transfer_stats_data["granted"])
        self._without_ticket.labels(*values).inc(transfer_stats_data["without_ticket"])
        for outcome, count in transfer_stats_data["handshakes"].items():
            self._handshakes.labels(*values, outcome).inc(count)
        for outcome, count in transfer_stats_data["returns"].items():
            self._returns.labels(*values, outcome).inc(count)
        for reason, count in transfer_stats_data["leases"].items():
            self._ends.labels(*values, reason).inc(count)
            if reason in {"expired", "max_hold"}:
                self._expired.labels(*values).inc(count)

    def _histogram(self, name: str, text: str, buckets: list[float] | list[int]) -> Any:
        return self._histogram_cls(
            name=f"vllm:kvdirect_{name}", documentation=text, buckets=buckets, labelnames=[*self._labelnames, "lane"]
        )

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._counter_cls(
            name=f"vllm:kvdirect_{name}", documentation=text, labelnames=[*self._labelnames, *labels]
        )
