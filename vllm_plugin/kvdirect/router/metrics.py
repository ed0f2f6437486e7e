# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router counts, as JSON for `/status` and as Prometheus text for `/metrics`."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from .apis import LABELS, OTHER, endpoint_of
from .counts import Area
from .instances import ROLES, STATES
from .outcomes import Outcome, PrefillOutcome, RetryReason, ReturnOutcome, RoleChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import StrEnum

    from prometheus_client.core import Metric

    from .connections import Connections
    from .counts import CountTable
    from .fleet import Fleet
    from .instances import Instance

# Labels of the counters, with the family that each belongs to. Series are bounded by these and by the instances known.
_FAMILIES: dict[type[StrEnum], tuple[str, str, str]] = {
    Outcome: ("requests", "outcome", "Requests that came to their end."),
    PrefillOutcome: ("prefills", "outcome", "Where prompts were prefilled, and why not apart."),
    ReturnOutcome: ("tickets_returned", "outcome", "Tickets that nobody would use, given back to prefill."),
    RetryReason: ("retries", "reason", "Requests sent to a decode instance again."),
    RoleChange: ("role_changes", "role", "Instances that took a role and gave up the other one."),
}
_PER_INSTANCE: tuple[tuple[Any, str, str, Callable[[Instance], int]], ...] = (
    (GaugeMetricFamily, "up", "1: it takes requests.", lambda instance: instance.state == "up"),
    (GaugeMetricFamily, "draining", "1: it is draining or drained.", lambda instance: instance.draining),
    (GaugeMetricFamily, "in_flight", "Requests the instance works on.", lambda instance: instance.in_flight),
    (CounterMetricFamily, "requests", "Requests the instance was given.", lambda instance: instance.taken),
    (CounterMetricFamily, "failures", "Of those, not answered or answered 5xx.", lambda instance: instance.failures),
)
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_ENDS = [floatToGoString(end) for end in (*_BUCKETS, math.inf)]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RouterMetrics:
    """The router's counts, those of all its workers together. It only observes."""

    def __init__(
        self, counts: CountTable, fleet: Fleet, connections: Connections, in_flight: Callable[[], int]
    ) -> None:
        self._connections = connections
        labels = [label for kind in _FAMILIES for label in kind]
        self._counts = {(type(label), label): counts.count(Area.COUNTER, at) for at, label in enumerate(labels)}
        self._fleet = fleet
        self._in_flight = in_flight
        self._registry = self.registry = CollectorRegistry()
        self._registry.register(self)
        made = (_Histogram(counts, number) for number in itertools.count())
        self._request_series = {endpoint: next(made) for endpoint in LABELS}
        self._first_byte_series = {endpoint: next(made) for endpoint in LABELS}
        self._prefill_series = next(made)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """All counters, by family and label."""
        return {
            family: {label.value: int(self._counts[kind, label].total) for label in kind}
            for kind, (family, _, _) in _FAMILIES.items()
        }

    def count(self, label: Outcome | PrefillOutcome | RetryReason | ReturnOutcome | RoleChange) -> None:
        """Count one."""
        self._counts[type(label), label].add()

    def finished(self, path: str, outcome: Outcome, seconds: float) -> None:
        """A request came to its end, `seconds` after it arrived."""
        self.count(outcome)
        self._request_series[_endpoint(path)].observe(seconds)

    def first_byte(self, path: str, seconds: float) -> None:
        """The first byte of an answer went to the client, `seconds` after the request arrived."""
        self._first_byte_series[_endpoint(path)].observe(seconds)

    def prefilled(self, seconds: float) -> None:
        """A prefill instance handed a cache over."""
        self._prefill_series.observe(seconds)

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
        yield from self._collect_histograms()
        yield from self._collect_instances()

    def _collect_histograms(self) -> Iterator[Metric]:
        for name, text, series in (
            ("request", "From a request's arrival to the end of its answer.", self._request_series),
            ("first_byte", "From a request's arrival to its answer's first byte.", self._first_byte_series),
        ):
            family = HistogramMetricFamily(f"kvdirect_router_{name}_seconds", text, labels=["endpoint"])
            for endpoint, histogram in series.items():
                family.add_metric([endpoint], *histogram.read())
            yield family
        family = HistogramMetricFamily(
            "kvdirect_router_prefill_seconds", "Time a prefill instance took to hand a cache over."
        )
        family.add_metric([], *self._prefill_series.read())
        yield family

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


class _Histogram:
    """How long something took: how often within each bucket, and the seconds together."""

    def __init__(self, counts: CountTable, number: int) -> None:
        first = number * (len(_BUCKETS) + 2)
        self._buckets = [counts.count(Area.HISTOGRAM, first + at) for at in range(len(_BUCKETS) + 1)]
        self._seconds = counts.count(Area.HISTOGRAM, first + len(_BUCKETS) + 1, real=True)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._buckets[bisect_left(_BUCKETS, seconds)].add()
        self._seconds.add(seconds)

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """For each bucket its end and how often it took as long at most; and the seconds."""
        sums = itertools.accumulate(bucket.total for bucket in self._buckets)
        return list(zip(_ENDS, sums, strict=True)), self._seconds.total


def _endpoint(path: str) -> str:
    found = endpoint_of(path.partition("?")[0])
    return found.api.label if found else OTHER.label
