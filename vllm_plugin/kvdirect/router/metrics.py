# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router counts, as JSON for `/status` and as Prometheus text for `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from .instances import ROLES, STATES
from .outcomes import Outcome, PrefillOutcome, RetryReason, ReturnOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from enum import StrEnum

    from prometheus_client.core import Metric

    from .connections import Connections
    from .fleet import Fleet
    from .instances import Instance

# Labels of the counters, with the family that each belongs to. Series are bounded by these and by the instances known.
_FAMILIES: dict[type[StrEnum], tuple[str, str, str]] = {
    Outcome: ("requests", "outcome", "Requests that came to their end."),
    PrefillOutcome: ("prefills", "outcome", "Where prompts were prefilled, and why not apart."),
    ReturnOutcome: ("tickets_returned", "outcome", "Tickets that nobody would use, given back to prefill."),
    RetryReason: ("retries", "reason", "Requests sent to a decode instance again."),
}
_PER_INSTANCE: tuple[tuple[Any, str, str, Callable[[Instance], int]], ...] = (
    (GaugeMetricFamily, "up", "1: it takes requests.", lambda instance: instance.state == "up"),
    (GaugeMetricFamily, "draining", "1: it is draining or drained.", lambda instance: instance.draining),
    (GaugeMetricFamily, "in_flight", "Requests the instance works on.", lambda instance: instance.in_flight),
    (CounterMetricFamily, "requests", "Requests the instance was given.", lambda instance: instance.taken),
    (CounterMetricFamily, "failures", "Of those, not answered or answered 5xx.", lambda instance: instance.failures),
)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_ENDPOINTS = ("completions", "chat_completions")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RouterMetrics:
    """The router's counts. It only observes; one event loop uses it, so nothing is locked."""

    def __init__(self, fleet: Fleet, connections: Connections, in_flight: Callable[[], int]) -> None:
        self._connections = connections
        self._counts = {label: dict.fromkeys(label, 0) for label in _FAMILIES}
        self._fleet = fleet
        self._in_flight = in_flight
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._request_seconds = self._histogram("request", "From a request's arrival to the end of its answer.")
        self._first_byte_seconds = self._histogram("first_byte", "From a request's arrival to its answer's first byte.")
        for endpoint in _ENDPOINTS:  # so that every series is there from the start
            self._request_seconds.labels(endpoint)
            self._first_byte_seconds.labels(endpoint)
        self._prefill_seconds = self._histogram("prefill", "Time a prefill instance took to hand a cache over.", ())

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """All counters, by family and label."""
        return {
            family: {label.value: number for label, number in self._counts[kind].items()}
            for kind, (family, _, _) in _FAMILIES.items()
        }

    def count(self, label: Outcome | PrefillOutcome | RetryReason | ReturnOutcome) -> None:
        """Count one."""
        self._counts[type(label)][label] += 1

    def finished(self, path: str, outcome: Outcome, seconds: float) -> None:
        """A request came to its end, `seconds` after it arrived."""
        self.count(outcome)
        self._request_seconds.labels(_endpoint(path)).observe(seconds)

    def first_byte(self, path: str, seconds: float) -> None:
        """The first byte of an answer went to the client, `seconds` after the request arrived."""
        self._first_byte_seconds.labels(_endpoint(path)).observe(seconds)

    def prefilled(self, seconds: float) -> None:
        """A prefill instance handed a cache over."""
        self._prefill_seconds.observe(seconds)

    def render(self) -> bytes:
        """Everything in Prometheus's text format."""
        text = generate_latest(self._registry)
        return bytes(text)

    def collect(self) -> Iterator[Metric]:
        """What changes outside of prometheus_client, read when it is asked for (its Collector protocol)."""
        counts = self.counts
        for family, name, text in _FAMILIES.values():
            counter = CounterMetricFamily(f"kvdirect_router_{family}", text, labels=[name])
            for value, number in counts[family].items():
                counter.add_metric([value], number)
            yield counter
        yield GaugeMetricFamily("kvdirect_router_in_flight", "Requests being worked on.", value=self._in_flight())
        yield GaugeMetricFamily("kvdirect_router_connections", "Clients connected.", value=len(self._connections))
        yield CounterMetricFamily(
            "kvdirect_router_turned_away",
            "Connections and requests that were ended for a bound, before the router read them.",
            value=self._connections.refused,
        )
        yield from self._collect_instances()

    def _collect_instances(self) -> Iterator[Metric]:
        by_state = GaugeMetricFamily(
            "kvdirect_router_instances", "Instances known, by role and state.", labels=["role", "state"]
        )
        for role in ROLES:
            for state in STATES:
                number = sum(instance.state == state for instance in self._fleet.pool(role))
                by_state.add_metric([role, state], number)
        yield by_state
        for kind, name, text, value in _PER_INSTANCE:
            family = kind(f"kvdirect_router_instance_{name}", text, labels=["role", "instance"])
            for instance in self._fleet:
                family.add_metric([instance.role, instance.url], value(instance))
            yield family

    def _histogram(self, name: str, text: str, labels: Sequence[str] = ("endpoint",)) -> Histogram:
        return Histogram(f"kvdirect_router_{name}_seconds", text, labels, registry=self._registry, buckets=_BUCKETS)


def _endpoint(path: str) -> str:
    return "chat_completions" if path.endswith("/chat/completions") else "completions"
