# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router counts, as JSON for `/status` and as Prometheus text for `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from .instances import ROLES, STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from .fleet import Fleet

# Every value that a label can have: series are bounded by this table and by the instances known now.
_COUNTED = {
    "requests": (
        "ok",  # answered 2xx or 3xx by an instance, to the end
        "refused",  # answered 4xx by the router: cannot be read, too large, too slow
        "refused_by_instance",  # answered 4xx by an instance
        "limited",  # answered 429: too many requests in flight
        "no_decode",  # answered 503: every decode instance is out, draining or full
        "failed",  # a decode instance broke off or answered 5xx, and retries did not help
        "timeout",  # answered 504: a decode instance was silent too long
        "stopping",  # answered 503: the router stops
        "client_gone",  # the client left, or took nothing, before the end
        "internal",  # answered 500: a mistake in the router
    ),
    "prefills": (
        "disaggregated",  # decode was given a prefill instance's parameters
        "refused",  # the prefill instance answered 4xx, which the client was given
        "local_request",  # decode alone: the request cannot use another engine's cache
        "local_no_prefill",  # decode alone: every prefill instance is out, draining or full
        "local_unreachable",  # decode alone: no prefill instance took the connection
        "local_broken",  # decode alone: the connection to the prefill instance broke
        "local_timeout",  # decode alone: the prefill took too long
        "local_failed",  # decode alone: the prefill instance answered with neither 2xx nor 4xx, or no JSON
        "local_no_params",  # decode alone: the prefill instance handed nothing over
        "local_retry",  # decode alone: a decode instance failed with the parameters it was given
    ),
    "retries": (
        "unreachable",  # the decode instance refused the connection, or went out during the prefill
        "broken",  # the decode instance broke off or aborted before the client was sent anything
        "failed",  # the decode instance answered 5xx, and the client was sent nothing
    ),
}
_DOCUMENTATION = {
    "requests": ("outcome", "Requests that came to their end."),
    "prefills": ("outcome", "Where prompts were prefilled, and why not apart."),
    "retries": ("reason", "Requests sent to a decode instance again."),
}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_ENDPOINTS = ("completions", "chat_completions")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RouterMetrics:
    """The router's counts. One event loop uses it, so nothing is locked."""

    def __init__(self, fleet: Fleet) -> None:
        self.in_flight = 0
        self.counts = {family: dict.fromkeys(labels, 0) for family, labels in _COUNTED.items()}
        self._fleet = fleet
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._request_seconds = self._histogram("request", "From a request's arrival to the end of its answer.")
        self._first_byte_seconds = self._histogram("first_byte", "From a request's arrival to its answer's first byte.")
        self._prefill_seconds = Histogram(
            "kvdirect_router_prefill_seconds",
            "Time a prefill instance took to hand a cache over.",
            registry=self._registry,
            buckets=_BUCKETS,
        )

    def count(self, family: str, label: str) -> None:
        """Count one; both names must be in the table."""
        self.counts[family][label] += 1

    def finished(self, path: str, outcome: str, seconds: float) -> None:
        """A request came to its end, `seconds` after it arrived."""
        self.count("requests", outcome)
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
        for family, (label, text) in _DOCUMENTATION.items():
            counter = CounterMetricFamily(f"kvdirect_router_{family}", text, labels=[label])
            for value, number in self.counts[family].items():
                counter.add_metric([value], number)
            yield counter
        yield GaugeMetricFamily("kvdirect_router_in_flight", "Requests being worked on.", value=self.in_flight)
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
        names = ["role", "instance"]
        up = GaugeMetricFamily("kvdirect_router_instance_up", "1: it takes requests.", labels=names)
        draining = GaugeMetricFamily("kvdirect_router_instance_draining", "1: it is draining or drained.", labels=names)
        in_flight = GaugeMetricFamily(
            "kvdirect_router_instance_in_flight", "Requests the instance works on.", labels=names
        )
        taken = CounterMetricFamily(
            "kvdirect_router_instance_requests", "Requests the instance was given.", labels=names
        )
        failures = CounterMetricFamily(
            "kvdirect_router_instance_failures", "Of those, not answered or answered 5xx.", labels=names
        )
        for instance in self._fleet:
            labels = [instance.role, instance.url]
            up.add_metric(labels, instance.state == "up")
            draining.add_metric(labels, instance.draining)
            in_flight.add_metric(labels, instance.in_flight)
            taken.add_metric(labels, instance.taken)
            failures.add_metric(labels, instance.failures)
        yield from (up, draining, in_flight, taken, failures)

    def _histogram(self, name: str, text: str) -> Histogram:
        histogram = Histogram(
            f"kvdirect_router_{name}_seconds", text, ["endpoint"], registry=self._registry, buckets=_BUCKETS
        )
        for endpoint in _ENDPOINTS:  # so that every series is there from the start
            histogram.labels(endpoint)
        return histogram


def _endpoint(path: str) -> str:
    return "chat_completions" if path.endswith("/chat/completions") else "completions"
