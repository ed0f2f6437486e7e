# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Where the router's spans go: OpenTelemetry's standard exporter, behind a bounded queue and beside the requests.

Imported only where spans are wanted; OpenTelemetry's environment variables say the rest (protocol, headers, sampler,
sizes of queue and batch). A receiver that is down costs the spans that the queue has no room for, and a line a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kvdirect.log import SeldomLog

from .config import ProxyConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_log = logging.getLogger("kvdirect.proxy")
_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
# Seconds between two lines about a receiver that does not take what it is sent.
_QUIET_SECONDS = 60.0
# For what the queue still has when the router stops.
_CLOSING_SECONDS = 3.0
_PACKAGES = 'pip install "kvdirect[tracing]"; where vLLM is installed they are there'


def wanted(option: str | None) -> str | None:
    """Where spans are wanted, by the option or OpenTelemetry's own variables; None: nowhere.

    Raises:
        ProxyConfigError: They cannot be sent there.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    endpoint = option or os.environ.get(_ENDPOINT)
    if endpoint:
        check_endpoint(endpoint, _protocol())
        for package in ("opentelemetry.sdk", f"opentelemetry.exporter.otlp.proto.{_protocol().partition('/')[0]}"):
            if not _is_there(package):
                raise ProxyConfigError(f"tracing needs the Python package {package!r}: {_PACKAGES}")
    return endpoint or None


def open_provider(endpoint: str) -> TracerProvider:
    """Start to export to what is wanted."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 (see the module's docstring)
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "kvdirect-proxy"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(endpoint)))
    _calm()
    return provider


async def close_provider(provider: TracerProvider) -> None:
    """Send what the queue has, unless that takes too long: the receiver may be gone."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def close() -> None:
        provider.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(closed.set)

    # A daemon, and no thread of a pool: one that hangs must not keep the process.
    threading.Thread(target=close, name="spans-shutdown", daemon=True).start()
    try:
        async with asyncio.timeout(_CLOSING_SECONDS):
            await closed.wait()
    except TimeoutError:
        _log.warning("the receiver of spans did not take the last ones within %s s; they are lost", _CLOSING_SECONDS)


def _protocol() -> str:
    return next((value for name in _PROTOCOLS if (value := os.environ.get(name))), "grpc")


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it lies in is not
        return False


def _exporter(endpoint: str) -> SpanExporter:
    """The standard one for the protocol."""
    if _protocol() == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 (see the module's docstring)
            OTLPSpanExporter as GrpcSpanExporter,
        )

        return GrpcSpanExporter(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter(endpoint)


def check_endpoint(endpoint: str, protocol: str) -> None:
    """Refuse an endpoint that the exporter would take and never reach.

    Raises:
        ProxyConfigError: It cannot be one.
    """
    if protocol not in {"grpc", "http/protobuf"}:
        raise ProxyConfigError(f"{_PROTOCOLS[0]} is {protocol!r}; expected grpc or http/protobuf")
    expected = "expected http://HOST:4317 for gRPC, or http://HOST:4318/v1/traces for HTTP"
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ProxyConfigError(f"otlp_traces_endpoint {endpoint!r} is no URL of a receiver; {expected}")
    if protocol == "grpc" and parts.path not in {"", "/"}:
        raise ProxyConfigError(
            f"otlp_traces_endpoint {endpoint!r} has a path, and gRPC has none; {expected}, with "
            f"{_PROTOCOLS[0]}=http/protobuf in the environment"
        )
    if protocol == "http/protobuf" and parts.path in {"", "/"}:
        raise ProxyConfigError(f"otlp_traces_endpoint {endpoint!r} has no path; {expected}")


class _Calm(logging.Filter):
    """Says one thing a minute of all that OpenTelemetry says while its receiver is away."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = SeldomLog(_log, quiet_seconds=_QUIET_SECONDS)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self._seldom.warning("OpenTelemetry: %s", record.getMessage())
        return False


def _calm() -> None:
    """Its loggers repeat themselves with every batch and every retry, for as long as the receiver is away."""
    calm = _Calm()
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(calm)
