# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the router pays to tell of a request: nothing, spans, or lines of the request log; without what sends them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from kvdirect.request_log import RequestLog
from kvdirect.router import journal
from kvdirect.router.instances import Instance
from kvdirect.router.outcomes import Outcome

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HEADERS = [(b"content-type", b"application/json"), (b"traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01")]
SCOPE: dict[str, Any] = {"method": "POST", "path": "/v1/completions", "headers": HEADERS}


@pytest.mark.parametrize("what", ["nothing", "spans", "lines"])
def test_telling(benchmark: BenchmarkFixture, what: str) -> None:
    """One request, with all that is told of one that goes well."""
    tracing, log = None, None
    if what == "spans":
        pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
        from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider  # noqa: PLC0415

        from kvdirect.router.spans import RouterSpans  # noqa: PLC0415

        provider = TracerProvider(active_span_processor=SynchronousMultiSpanProcessor(), shutdown_on_exit=False)
        tracing = RouterSpans(provider)
    if what == "lines":
        quiet = logging.getLogger("bench")
        quiet.propagate = False
        quiet.addHandler(logging.StreamHandler(open("/dev/null", "w")))  # noqa: SIM115, PTH123
        quiet.setLevel(logging.INFO)
        log = RequestLog(quiet, "router")
    instance = Instance("prefill", "http://127.0.0.1:8100")

    def tell() -> None:
        if tracing is None and log is None:
            told = journal.SILENT
        else:
            told = journal._ToldJournal(tracing, log, SCOPE, "/v1/completions", "an-id")  # noqa: SLF001
        with told.asks("prefill", instance, HEADERS) as part:
            part.answered(200)
        ticket = told.ticket(instance, "cmpl-an-id-0")
        with told.asks("decode", instance, HEADERS) as part:
            part.answered(200)
            part.first_byte()
            ticket.end("redeemed")
        told.finished(Outcome.OK, 200)

    benchmark(tell)
