# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router tells of each request: OpenTelemetry spans, and lines of the request log. Both are off by default.

A request's span is the child of the client's, by its `traceparent`, or begins a trace. What each instance is asked is a
span below it, whose context goes along in the client's place, so that what engines tell lies below that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Self

from starlette.requests import ClientDisconnect

from kvdirect.request_log import RequestLog

from . import exporter
from .apis import ENDPOINTS, STORED_PATH
from .outcomes import Outcome

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span
    from starlette.types import Scope

    from .bodies import RawHeaders
    from .config import ProxyConfig
    from .instances import Instance
    from .spans import RouterSpans

_log = logging.getLogger("kvdirect.proxy")
_NOT_ITS_FAULT = frozenset(
    {Outcome.OK, Outcome.REFUSED, Outcome.REFUSED_BY_INSTANCE, Outcome.LIMITED, Outcome.CLIENT_GONE}
)


class Part:
    """One part of a request's way, that nothing is told of: a context that ends with it.

    Attributes:
        headers: For the instance that is asked.
    """

    __slots__ = ("headers",)

    def __init__(self, headers: RawHeaders) -> None:
        self.headers = headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def answered(self, status: int) -> None:
        """The instance answered with this status."""

    def first_byte(self) -> None:
        """The first byte of an answer that has begun to be computed has come."""

    def end(self, outcome: str, why: str = "") -> None:
        """It ended so, where it is no context; only the first end counts."""


class _ToldPart(Part):
    __slots__ = ("_began", "_ended", "_journal", "_name", "_span", "_status")

    def __init__(self, journal: _ToldJournal, name: str, instance: Instance, headers: RawHeaders, kind: str) -> None:
        super().__init__(headers)
        self._journal, self._name = journal, name
        self._span = journal.start(f"kvdirect.{name}", kind, {"kvdirect.instance": instance.url})
        self._began = time.monotonic()
        self._status = 0
        self._ended = False
        if self._span is not None:
            self.headers = journal.below(self._span, headers)

    def answered(self, status: int) -> None:
        self._status = status
        if self._span is not None:
            self._span.set_attribute("http.response.status_code", status)

    def first_byte(self) -> None:
        if self._span is not None:
            self._span.add_event("first_byte")
        self._journal.write("gets a first byte", seconds=round(time.monotonic() - self._began, 6))

    def end(self, outcome: str, why: str = "") -> None:
        if not self._ended:
            self._ended = True
            if self._span is not None:
                self._span.set_attribute("kvdirect.outcome", outcome)
                self._span.end()
            seconds = round(time.monotonic() - self._began, 6)
            more = {"status": self._status or None, "outcome": outcome, "reason": why or None}
            self._journal.write(f"{self._name} is over", seconds=seconds, **more)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end("failed" if self._status >= 400 else "ok")
        elif isinstance(error, asyncio.CancelledError | ClientDisconnect):
            self.end("cancelled")
        else:
            why = str(error) or type(error).__name__
            if self._span is not None:
                self._journal.fail(self._span, why)
            self.end("failed", why)


class Journal:
    """That of one request of which nothing is told."""

    __slots__ = ()

    def asks(self, name: str, instance: Instance, headers: RawHeaders) -> Part:
        """An instance is asked, while the context is open.

        Args:
            name: "prefill" or "decode".
            instance: Which.
            headers: For it.
        """
        del name, instance
        return Part(headers)

    def ticket(self, instance: Instance, request_id: str) -> Part:
        """An instance's ticket has come, for what it calls so; end it with what became of it."""
        del instance, request_id
        return NO_PART

    def finished(self, outcome: Outcome, status: int) -> None:
        """The request is over; the status is what the client was answered, 0 if it was not."""


SILENT = Journal()
NO_PART = Part([])


class _ToldJournal(Journal):
    """That of one request."""

    __slots__ = ("_began", "_log", "_request_id", "_route", "_span", "_tracing")

    def __init__(
        self, tracing: RouterSpans | None, log: RequestLog | None, scope: Scope, route: str, request_id: str
    ) -> None:
        self._tracing, self._log = tracing, log
        self._began = time.monotonic()
        self._request_id = request_id
        self._route = f"{scope['method']} {route}"
        self._span = None
        if tracing is not None:
            attributes = {
                "http.request.method": scope["method"],
                "http.route": route,
                "kvdirect.request.id": request_id,
            }
            self._span = tracing.start(self._route, "SERVER", tracing.clients(scope["headers"]), attributes)
        self.write("arrives", route=self._route)

    def asks(self, name: str, instance: Instance, headers: RawHeaders) -> Part:
        self.write(f"{name} is asked", instance=instance.url)
        return _ToldPart(self, name, instance, headers, "CLIENT")

    def ticket(self, instance: Instance, request_id: str) -> Part:
        self.write("gets a ticket", instance=instance.url, owner_request_id=request_id or None)
        return _ToldPart(self, "ticket", instance, [], "INTERNAL")

    def start(self, name: str, kind: str, attributes: dict[str, str]) -> Span | None:
        """A span below the request's."""
        if self._tracing is None or self._span is None:
            return None
        return self._tracing.start(name, kind, self._tracing.inside(self._span), attributes)

    def below(self, span: Span, headers: RawHeaders) -> RawHeaders:
        """An instance's headers, whose spans are to lie below this one."""
        assert self._tracing is not None  # noqa: S101 (there is a span)
        return self._tracing.headers(span, headers)

    def fail(self, span: Span, why: str) -> None:
        """Mark a span as failed."""
        assert self._tracing is not None  # noqa: S101 (as above)
        self._tracing.fail(span, why)

    def write(self, event: str, **more: Any) -> None:
        """A line of the request log."""
        if self._log is not None:
            self._log.write(self._request_id, event, **{key: value for key, value in more.items() if value is not None})

    def finished(self, outcome: Outcome, status: int) -> None:
        if self._span is not None:
            self._span.set_attribute("kvdirect.outcome", outcome.value)
            if status:
                self._span.set_attribute("http.response.status_code", status)
            if outcome not in _NOT_ITS_FAULT:
                self.fail(self._span, outcome.value)
            self._span.end()
        seconds = round(time.monotonic() - self._began, 6)
        self.write("is answered", outcome=outcome.value, status=status or None, seconds=seconds)


class Journals:
    """Makes those of all requests of a router."""

    def __init__(self, config: ProxyConfig) -> None:
        self._endpoint = config.otlp_traces_endpoint
        self._request_log = RequestLog(_log, "router") if config.log_requests else None
        self._tracing: RouterSpans | None = None

    def open(self) -> None:
        """Start to export spans, where they are wanted; in the process that serves.

        Raises:
            ProxyConfigError: They cannot be exported.
        """
        endpoint = exporter.wanted(self._endpoint)
        if endpoint is not None:
            from .spans import RouterSpans  # noqa: PLC0415 (OpenTelemetry comes with it)

            self._tracing = RouterSpans(exporter.open_provider(endpoint))

    async def close(self) -> None:
        """Send the last spans."""
        tracing, self._tracing = self._tracing, None
        if tracing is not None:
            await exporter.close_provider(tracing.provider)

    def of(self, scope: Scope, request_id: str) -> Journal:
        """That of a request which was taken."""
        if self._tracing is None and self._request_log is None:
            return SILENT
        path = scope["path"]
        route = path if path in ENDPOINTS else STORED_PATH  # without what a client has put into it
        return _ToldJournal(self._tracing, self._request_log, scope, route, request_id)
