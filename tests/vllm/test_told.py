# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What is told of a request: one tree of spans over the router and two engines, and one story from their logs."""

from __future__ import annotations

import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from engines import (
    AGGREGATED,
    BLOCK,
    DECODE,
    HOST_LANE,
    PREFILL,
    Engine,
    completion_body,
    name,
    only_pull,
    text,
    wait_until,
)
from span_receiver import OVER_HTTP, Span

from kvdirect.harness.http_client import http
from kvdirect.harness.processes import router

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pool import EnginePool

    from kvdirect.harness.processes import ManagedProcess

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

ROOT = "POST /v1/completions"
NAMES = (
    ROOT,
    "kvdirect.prefill",
    "kvdirect.ticket",
    "kvdirect.decode",
    "kvdirect.keep",
    "kvdirect.load",
    "kvdirect.wait_for_blocks",
    "kvdirect.pull",
    "llm_request",
    "llm_request",
)


@pytest.fixture
def telling(
    owner: Engine, reader: Engine, pool: EnginePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ManagedProcess]:
    """A router that tells of requests, before two engines that do."""
    for key, value in OVER_HTTP:
        monkeypatch.setenv(key, value)
    options = ("--otlp-traces-endpoint", pool.receiver.url, "--log-requests")
    process = router(owner.process, reader.process, tmp_path, options=options)
    process.start()
    try:
        wait_until(process.ready, "the router is ready")
        yield process
    finally:
        process.ask_to_stop()
        process.stop()


def ask(process: ManagedProcess, length: int, request_id: str) -> str:
    """Have a prompt answered within a trace of the client's; the trace's id."""
    trace = secrets.token_hex(16)
    headers = {"X-Request-Id": request_id, "traceparent": f"00-{trace}-{'c' * 16}-01"}
    body = completion_body(text(length), 4)
    answer = http().post(f"{process.url}/v1/completions", json=body, headers=headers, timeout=120.0)
    assert answer.status_code == 200, answer.text
    return trace


def within(inner: Span, outer: Span) -> bool:
    return outer.begin <= inner.begin <= inner.end <= outer.end


def test_one_tree_from_the_client_to_the_pull(telling: ManagedProcess, reader: Engine, pool: EnginePool) -> None:
    request_id = name("spans")
    spans = pool.receiver.wait_for(ask(telling, 300, request_id), *NAMES)
    record = only_pull(reader, request_id)
    one = {span.name: span for span in spans}
    root, prefill, decode, load = (one[key] for key in (ROOT, "kvdirect.prefill", "kvdirect.decode", "kvdirect.load"))
    waited, pull = one["kvdirect.wait_for_blocks"], one["kvdirect.pull"]
    assert root.parent == "c" * 16
    assert prefill.parent == decode.parent == one["kvdirect.ticket"].parent == root.id
    assert one["kvdirect.keep"].parent == prefill.id
    assert load.parent == decode.id
    assert {span.parent for span in spans if span.name == "llm_request"} == {prefill.id, decode.id}
    assert waited.parent == pull.parent == load.id
    connects = [span for span in spans if span.name == "kvdirect.connect"]  # where it was the first of this pair
    assert {span.parent for span in connects} <= {load.id}
    for inner, outer in ((prefill, root), (decode, root), (load, decode), (waited, load), (pull, load)):
        assert within(inner, outer), (inner, outer)
    assert prefill.end <= load.begin
    assert pull.attributes["kvdirect.lane"] == record["lane"] == HOST_LANE
    assert pull.attributes["kvdirect.bytes"] == record["bytes"] > 0
    assert pull.attributes["kvdirect.runs"] == record["runs"] > 0
    assert pull.attributes["kvdirect.blocks"] == record["blocks"] == -(-299 // BLOCK)
    assert pull.attributes["kvdirect.tokens"] == load.attributes["kvdirect.tokens"] == 299
    assert pull.attributes["kvdirect.request.id"] == load.attributes["kvdirect.request.id"] == record["request_id"]
    assert pull.attributes["kvdirect.owner"] == record["owner"]
    assert pull.attributes["kvdirect.outcome"] == load.attributes["kvdirect.outcome"] == "ok"
    assert one["kvdirect.keep"].attributes["kvdirect.request.id"] == load.attributes["kvdirect.owner.request.id"]
    assert not any(span.failed for span in spans)


def test_what_the_client_does_not_sample_no_engine_tells_of(telling: ManagedProcess, pool: EnginePool) -> None:
    trace = secrets.token_hex(16)
    headers = {"X-Request-Id": name("unsampled"), "traceparent": f"00-{trace}-{'c' * 16}-00"}
    body = completion_body(text(100), 2)
    answer = http().post(f"{telling.url}/v1/completions", json=body, headers=headers, timeout=120.0)
    assert answer.status_code == 200
    pool.receiver.wait_for(ask(telling, 100, name("sampled")), *NAMES)
    assert pool.receiver.of(trace) == []


def test_a_story_from_the_logs_of_all_three(telling: ManagedProcess, owner: Engine, reader: Engine) -> None:
    request_id = name("story")
    ask(telling, 300, request_id)
    ask(telling, 300, request_id + "0")  # another request, whose id begins so
    record = only_pull(reader, f"-{request_id}-")
    end = "has its blocks freed"
    wait_until(lambda: any(end in line and f"-{request_id}-" in line for line in owner.log.splitlines()), end)
    logs = (telling.log, owner.process.log, reader.process.log, reader.pull_log)
    words = ["trace", request_id, *(word for log in logs for word in ("--log", str(log)))]
    told = subprocess.run(
        [sys.executable, "-m", "kvdirect", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith(f"request {request_id}, from 20")
    order = (
        "router  arrives",
        "router  prefill is asked",
        "owner   is kept for a reader",
        "router  gets a ticket",
        "router  decode is asked",
        "reader  has a ticket",
        "reader  has blocks",
        "reader  pulls",
        "reader  goes on",
        "router  is answered",
    )
    places = [next((i for i, line in enumerate(lines) if step in line), -1) for step in order]
    assert -1 not in places, told.stdout
    assert places == sorted(places), told.stdout
    assert told.stdout.count("reader  pulls") == 1, "the pull log and the request log tell of one pull"
    assert request_id + "0" not in told.stdout
    assert f"pulled {record['bytes']:,} bytes over {HOST_LANE} in {record['runs']:,} runs" in lines[-1]
