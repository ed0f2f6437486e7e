# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The router's OpenTelemetry spans, and the trace contexts in headers. Imported only where spans are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kvdirect import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from .bodies import RawHeaders

_CONTEXT = (b"traceparent", b"tracestate")
_MOST_CONTEXT = 4096  # bytes of these headers that are looked at


class RouterSpans:
    """Makes the router's spans.

    Attributes:
        provider: Exports them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer("kvdirect.proxy", __version__)
        self._form = TraceContextTextMapPropagator()

    def clients(self, headers: RawHeaders) -> Context:
        """The context that a client sent; an empty one where that cannot be used."""
        given = [(name.lower(), value) for name, value in headers if name.lower() in _CONTEXT]
        parents = [value for name, value in given if name == b"traceparent"]
        if len(parents) != 1 or sum(len(value) for _, value in given) > _MOST_CONTEXT:
            return self._form.extract({})
        states = b",".join(value for name, value in given if name == b"tracestate")
        carrier = {"traceparent": parents[0].decode("latin-1"), "tracestate": states.decode("latin-1")}
        return self._form.extract(carrier)

    @staticmethod
    def inside(span: Span) -> Context:
        """The context of children of a span."""
        return trace.set_span_in_context(span)

    def start(self, name: str, kind: str, context: Context, attributes: dict[str, str]) -> Span:
        """Begin a span of a kind of OpenTelemetry's; end it."""
        return self._tracer.start_span(name, context=context, kind=SpanKind[kind], attributes=attributes)

    def headers(self, span: Span, headers: RawHeaders) -> RawHeaders:
        """Headers with this span's context instead of another."""
        carrier: dict[str, str] = {}
        self._form.inject(carrier, self.inside(span))
        kept = [pair for pair in headers if pair[0] not in _CONTEXT]
        return kept + [(name.encode("ascii"), value.encode("latin-1")) for name, value in carrier.items()]

    @staticmethod
    def fail(span: Span, why: str) -> None:
        """Mark a span as one that failed."""
        span.set_status(StatusCode.ERROR, why)
