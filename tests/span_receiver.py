# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A receiver of OpenTelemetry spans as a collector is one: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

# What spans of the tests need in their environment, beside the endpoint.
OVER_HTTP = (
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
    ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ("NO_PROXY", "127.0.0.1"),
    ("no_proxy", "127.0.0.1"),
)
_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Span:
    """One span; ids are hexadecimal, times nanoseconds since the epoch."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    begin: int
    end: int
    failed: bool
    why: str
    service: str
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[str, ...] = ()


class SpanReceiver:
    """Listens on a free port of loopback."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=_KEPT)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._spans.extend(decoded(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *values: object) -> None:  # noqa: A002 (its name)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="span-receiver", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def of(self, trace: str) -> list[Span]:
        """Those of one trace so far, in the order in which they began."""
        return sorted((span for span in tuple(self._spans) if span.trace == trace), key=lambda span: span.begin)

    def all(self) -> list[Span]:
        return list(self._spans)

    def wait_for(self, trace: str, *names: str, seconds: float = 30.0) -> list[Span]:
        """Those of a trace once so many have come by these names."""
        deadline = time.monotonic() + seconds
        while True:
            spans = self.of(trace)
            have = [span.name for span in spans]
            if all(have.count(name) >= names.count(name) for name in names):
                return spans
            assert time.monotonic() < deadline, f"of {names} only {have} came within {seconds:.0f} s"
            time.sleep(0.02)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decoded(body: bytes) -> Iterator[Span]:
    """The spans of one request."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _values(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    span.status.message,
                    service,
                    _values(span.attributes),
                    tuple(event.name for event in span.events),
                )


def _values(attributes: Any) -> dict[str, Any]:  # noqa: ANN401 (protobuf's repeated field)
    def value(item: KeyValue) -> Any:  # noqa: ANN401 (what an attribute may be)
        kind = item.value.WhichOneof("value")
        return None if kind is None else getattr(item.value, kind)

    return {item.key: value(item) for item in attributes}
