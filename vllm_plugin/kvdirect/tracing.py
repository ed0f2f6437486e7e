# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""OpenTelemetry spans of an engine, made with the provider that vLLM has set up in each of its processes.

So they go where vLLM's own spans go, by `--otlp-traces-endpoint`, in the batches of the same exporter, beside what the
engine does. Without that option nothing of OpenTelemetry is imported here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span
    from vllm.config import VllmConfig

# A trace context as W3C's headers carry it: traceparent, and tracestate where there is one.
TraceHeaders = dict[str, str]
Attribute = str | int | float | bool

NANOSECONDS = 1_000_000_000


class Spans:
    """Makes the spans of one process."""

    def __init__(self) -> None:
        from opentelemetry import trace  # noqa: PLC0415 (only where spans are wanted)
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace: Any = trace
        self._form = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("kvdirect", __version__)

    @classmethod
    def of(cls, vllm_config: VllmConfig) -> Spans | None:
        """Those of an engine; None: it was not started with `--otlp-traces-endpoint`."""
        observed = getattr(vllm_config, "observability_config", None)
        return cls() if getattr(observed, "otlp_traces_endpoint", None) else None

    def start(
        self, name: str, parent: Mapping[str, str] | Span | None, attributes: Mapping[str, Attribute], start: int = 0
    ) -> Span:
        """Begin a span; end it.

        Args:
            name: Of the span.
            parent: Another span, or the headers of one; None, or what is no trace context: it begins a trace.
            attributes: Of the span.
            start: Nanoseconds since the epoch; 0: now.
        """
        if parent is None or hasattr(parent, "keys"):
            context = self._form.extract(parent or {})
        else:
            context = self._trace.set_span_in_context(parent)
        span: Span = self._tracer.start_span(
            name, context=context, attributes=dict(attributes), start_time=start or time.time_ns()
        )
        return span

    def headers(self, span: Span) -> TraceHeaders:
        """What makes spans of another process its children; empty where it is not recorded."""
        carrier: TraceHeaders = {}
        if span.is_recording():
            self._form.inject(carrier, self._trace.set_span_in_context(span))
        return carrier

    def fail(self, span: Span, why: str) -> None:
        """Mark a span as one that failed."""
        span.set_status(self._trace.StatusCode.ERROR, why)
