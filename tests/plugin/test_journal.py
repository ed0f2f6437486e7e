# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the connector tells of a request, by spans and in the request log, however the load of its cache ends."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from played_scheduler import Played, elsewhere
from played_worker import Half, lend, order, small_cache
from vllm.v1.request import RequestStatus

from kvdirect.metadata import Hold
from kvdirect.request_log import MARK
from kvdirect.tracing import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

PARENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


@pytest.fixture
def heard(model: Path) -> Iterator[list[dict[str, Any]]]:
    """What is written to the request log."""
    small_cache(model, "kv_consumer")  # with its first configuration vLLM takes handlers away
    records: list[dict[str, Any]] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if MARK in record.getMessage():
                records.append(json.loads(record.getMessage().partition(MARK)[2]))

    logger, handler = logging.getLogger("vllm.kvdirect"), Heard()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def traced(journal: Any) -> Callable[[], dict[str, ReadableSpan]]:  # noqa: ANN401
    """Have a journal make spans; gives those that have ended, by name."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    journal._spans = Spans()
    journal._spans._tracer = provider.get_tracer("test")
    return lambda: {span.name: span for span in exporter.get_finished_spans()}


def run(played: Played, end: str, request: Any) -> None:  # noqa: ANN401
    """Bring a load to its end."""
    request_id = request.request_id
    if end == "aborted before it had blocks":
        played.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
        return
    output, _ = played.schedule()
    if end == "aborted":
        played.answer(output)
        played.scheduler.finish_requests(request_id, RequestStatus.FINISHED_ABORTED)
        output, _ = played.schedule()
    done = {request_id} if end != "nothing_to_pull" else set()
    played.answer(output, received=done, failed=done if end in {"failed", "aborted"} else set())


@pytest.mark.parametrize("end", ["ok", "failed", "aborted", "aborted before it had blocks", "nothing_to_pull"])
def test_a_load_is_told_of_however_it_ends(play: Callable[..., Played], heard: list[dict[str, Any]], end: str) -> None:
    played = play("kv_consumer", log_requests=True, policy="recompute")
    if end == "nothing_to_pull":
        run(played, "ok", played.add(97, elsewhere(97)))
        output, _ = played.schedule()
        played.answer(output)
        heard.clear()
    half = played.scheduler.connector.scheduler
    spans = traced(half._reader._journal)
    request = played.add(97, elsewhere(97), trace_headers=PARENT)
    run(played, end, request)
    told = spans()
    outcome = end.split(maxsplit=1)[0]
    load, waited = told["kvdirect.load"], told["kvdirect.wait_for_blocks"]
    assert load.attributes is not None
    assert load.attributes["kvdirect.outcome"] == outcome
    assert load.attributes["kvdirect.request.id"] == request.request_id
    assert load.attributes["kvdirect.owner"] == "127.0.0.1:5555"
    assert load.attributes["kvdirect.owner.request.id"] == "r"
    assert load.status.is_ok is (outcome != "failed")
    assert load.parent is not None
    assert f"{load.parent.trace_id:x}" == "a" * 32
    assert f"{load.parent.span_id:x}" == "b" * 16
    assert load.context is not None
    assert waited.parent is not None
    assert waited.parent.span_id == load.context.span_id
    assert half._reader._journal._loads == {}, "nothing is kept of what is over"
    steps = [record["event"] for record in heard if record["request_id"] == request.request_id]
    blocks = ["has blocks"] if end in {"ok", "failed", "aborted"} else []
    assert steps == ["has a ticket", *blocks, "goes on"]
    assert heard[-1]["outcome"] == outcome


def test_a_ticket_of_another_prompt_is_told_of(play: Callable[..., Played]) -> None:
    played = play("kv_consumer")
    half = played.scheduler.connector.scheduler
    spans = traced(half._reader._journal)
    played.add(97, elsewhere(97, kvdirect_prompt="0" * 16), trace_headers=PARENT)
    load = spans()["kvdirect.load"]
    assert load.attributes is not None
    assert load.attributes["kvdirect.outcome"] == "other_prompt"
    assert half._reader._journal._loads == {}


def test_workers_get_the_loads_context_and_none_of_what_is_not_sampled(play: Callable[..., Played]) -> None:
    played = play("kv_consumer")
    spans = traced(played.scheduler.connector.scheduler._reader._journal)
    headers = {"traceparent": PARENT["traceparent"][:-1] + "0"}
    sampled = played.add(97, elsewhere(97), trace_headers=PARENT)
    played.add(98, elsewhere(98), trace_headers=headers)
    output, metadata = played.schedule()
    first, second = metadata.holds
    played.answer(output, received={sampled.request_id})
    load = spans()["kvdirect.load"]
    assert load.context is not None
    assert first.trace["traceparent"] == f"00-{'a' * 32}-{load.context.span_id:016x}-01"
    assert second.trace == {}


def test_a_prefill_is_told_of_until_its_blocks_are_free(
    play: Callable[..., Played], heard: list[dict[str, Any]]
) -> None:
    played = play("kv_producer", log_requests=True)
    half = played.scheduler.connector.scheduler
    spans = traced(half._owner._journal)
    request = played.add(60, {"do_remote_decode": True}, trace_headers=PARENT)
    output, _ = played.schedule()
    played.answer(output)
    assert spans() == {}
    output, _ = played.schedule()
    played.answer(output, sent={request.request_id})
    keep = spans()["kvdirect.keep"]
    assert keep.attributes == {"kvdirect.request.id": request.request_id, "kvdirect.tokens": 60}
    assert half._owner._journal._kept == {}
    assert [record["event"] for record in heard] == ["is kept for a reader", "has its blocks freed"]
    assert {record["who"] for record in heard} == {"owner"}


def test_workers_tell_of_connections_and_pulls(start: Callable[..., Half], heard: list[dict[str, Any]]) -> None:
    owner, reader = start("kv_producer", log_requests=True), start("kv_consumer", log_requests=True)
    assert reader.worker._reader is not None
    spans = traced(reader.worker._reader._journal)
    lease = lend(owner, [3, 9, 4], 80, "p")
    reader.steps_until(
        lambda results: "d" in results.received,
        holds=[Hold("d", owner.address, lease, PARENT)],
        pulls=[order("d", [3, 9, 4], [7, 1, 2], 0, 80)],
    )
    reader.step(releases=["d"], completes=["d"])
    owner.steps_until(lambda results: "p" in results.sent)
    connect, pull = spans()["kvdirect.connect"], spans()["kvdirect.pull"]
    for span in (connect, pull):
        assert span.parent is not None
        assert f"{span.parent.span_id:x}" == "b" * 16
        assert span.status.is_ok
    assert connect.end_time is not None
    assert pull.start_time is not None
    assert connect.end_time <= pull.start_time
    assert pull.attributes is not None
    assert pull.attributes["kvdirect.blocks"] == 3
    assert pull.attributes["kvdirect.tokens"] == 80
    assert pull.attributes["kvdirect.bytes"] > 0  # type: ignore[operator]
    assert [(record["who"], record["event"]) for record in heard] == [
        *(("reader", "connects"), ("reader", "pulls"), ("owner", "has its lease ended"))
    ]
    assert heard[-1]["reason"] == "completed"


def test_workers_tell_why_a_pull_or_a_connection_failed(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    assert reader.worker._reader is not None
    spans = traced(reader.worker._reader._journal)
    lease = lend(owner, [3], 32, "p")
    gone = (lease[0], lease[1] + 1)
    reader.steps_until(
        lambda results: "d" in results.failed,
        holds=[Hold("d", owner.address, gone, PARENT)],
        pulls=[order("d", [3], [7], 0, 32)],
    )
    pull = spans()["kvdirect.pull"]
    assert not pull.status.is_ok
    assert pull.attributes is not None
    assert pull.attributes["kvdirect.outcome"] == "LeaseExpired"
    owner.server.close()
    nowhere = type(owner.address)("127.0.0.1", 1, "kv_producer", owner.incarnation)
    reader.steps_until(
        lambda results: "e" in results.failed,
        holds=[Hold("e", nowhere, lease, PARENT)],
        pulls=[order("e", [3], [7], 0, 32)],
    )
    connect = spans()["kvdirect.connect"]
    assert not connect.status.is_ok
    assert "127.0.0.1:1" in str(connect.status.description)
