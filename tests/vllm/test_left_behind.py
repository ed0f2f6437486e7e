# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Nothing stays held on prefill for requests that ended otherwise, behind the real router."""

from __future__ import annotations

import json
import random
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
    Engine,
    completion_body,
    ended_leases,
    name,
    prefill,
    text,
    tokens,
    wait_until,
)

from kvdirect.harness.accounting import total
from kvdirect.harness.http_client import http

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

# From the client's end: the router's grace, a request, a step, and how seldom vLLM publishes its counters.
SOON = 2.0


def held(owner: Engine) -> float:
    samples = owner.samples()
    granted, ended = (total(samples, f"vllm:kvdirect_num_{what}_leases_total") for what in ("granted", "ended"))
    return granted - ended


def returned(owner: Engine, outcome: str = "freed") -> float:
    return owner.metric("vllm:kvdirect_num_returned_tickets_total", outcome=outcome)


def refused(routed: str, body: dict[str, Any]) -> int:
    return http().post(f"{routed}/v1/completions", json=body, timeout=60.0).status_code


@pytest.mark.parametrize(
    "wrong", [{"stream_options": {"include_usage": True}}, {"n": "two"}, {"max_tokens": "many"}, {"stream": "perhaps"}]
)
def test_what_only_decode_refuses_leaves_no_cache(owner: Engine, routed: str, wrong: dict[str, Any]) -> None:
    before = returned(owner)
    assert refused(routed, completion_body(text(300), 8) | wrong) == 400
    wait_until(lambda: returned(owner) == before + 1 and held(owner) == 0, "its cache is free", SOON)


def test_clients_that_leave_at_random_leave_no_caches(
    aggregated: Engine, owner: Engine, reader: Engine, routed: str
) -> None:
    """In the prefill, between it and decode, while decode pulls, in the answer: wherever they are."""
    wait_until(lambda: held(owner) == 0, "nothing is left of earlier tests")
    began = time.monotonic()
    for _ in range(2):
        assert refused(routed, completion_body(text(700), 1)) == 200
    whole = (time.monotonic() - began) / 2
    expired = ended_leases(owner, "expired")
    parts = urlsplit(routed)
    for number in range(150):
        body = json.dumps(completion_body(text(700), 64, stream=bool(number % 2))).encode()
        with socket.create_connection((parts.hostname, parts.port)) as sock:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            sock.sendall(head % len(body) + body)
            time.sleep(random.uniform(0.0, 1.2 * whole))  # noqa: S311  (no secret)
    wait_until(lambda: held(owner) == 0, "nothing is held for those that left", SOON)
    assert ended_leases(owner, "expired") == expired
    wait_until(lambda: not reader.metric("vllm:num_requests_running"), "decode is done with them")
    prompt = text(300)
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert (
        tokens(http().post(f"{routed}/v1/completions", json=completion_body(prompt, 16), timeout=60.0).json())
        == expected
    )


def test_a_ticket_given_back_by_hand(owner: Engine, reader: Engine) -> None:
    """The call of docs/router.md, at once at the owner; who comes later with the ticket gets no cache."""
    prompt, request_id = text(300), name("by-hand")
    params = prefill(owner, prompt, request_id)
    wait_until(lambda: held(owner) == 1, "it is kept")
    for model in ("demo-that-is-not-there", "nor-this"):
        body = {"model": model, "prompt": [0], "max_tokens": 1, "kv_transfer_params": params}
        assert owner.post("/v1/completions", body, name("back")).status_code == 404
        wait_until(lambda: held(owner) == 0, "it is free", SOON)
    assert owner.healthy()
    late = reader.post("/v1/completions", completion_body(prompt, 8, kv_transfer_params=params), name("late"))
    assert late.status_code == 500, "its pull fails, and the policy is to fail"


def test_a_refused_request_at_decode_gives_it_back_too(owner: Engine, reader: Engine) -> None:
    """As for other connectors' tickets: decode's connector completes the lease at the owner."""
    params = prefill(owner, text(300), name("elsewhere"))
    completed = ended_leases(owner, "completed")
    body = {"model": "demo-that-is-not-there", "prompt": [0], "max_tokens": 1, "kv_transfer_params": params}
    assert reader.post("/v1/completions", body, name("back")).status_code == 404
    wait_until(lambda: ended_leases(owner, "completed") == completed + 1 and held(owner) == 0, "it is completed", 10.0)
