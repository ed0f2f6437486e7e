# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Nothing stays held on prefill for requests that ended otherwise, behind the real router."""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
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
CLIENTS = 1000
AT_ONCE = 8


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
    expired = ended_leases(owner, "expired")
    kept = owner.metric("vllm:kvdirect_num_granted_leases_total")
    parts = urlsplit(routed)

    def come_and_leave(number: int) -> None:
        body = json.dumps(completion_body(text(200), 32, stream=bool(number % 2))).encode()
        with socket.create_connection((parts.hostname, parts.port)) as sock:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
            sock.sendall(head % len(body) + body)
            time.sleep(random.uniform(0.0, 1.2 * whole))  # noqa: S311  (no secret)

    with ThreadPoolExecutor(AT_ONCE) as clients:
        began = time.monotonic()
        answers = clients.map(lambda _: refused(routed, completion_body(text(200), 32)), range(2 * AT_ONCE))
        assert list(answers) == [200] * 2 * AT_ONCE
        whole = (time.monotonic() - began) / 2
        for done in [clients.submit(come_and_leave, number) for number in range(CLIENTS)]:
            done.result()
    wait_until(lambda: held(owner) == 0, "nothing is held for those that left", SOON)
    assert ended_leases(owner, "expired") == expired
    kept = owner.metric("vllm:kvdirect_num_granted_leases_total") - kept
    assert kept > CLIENTS / 4, "many leave when there is a cache"
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


@pytest.mark.parametrize("clears", [True, False], ids=["that clears", "that clears nothing"])
def test_what_is_kept_and_a_pause(aggregated: Engine, owner: Engine, reader: Engine, *, clears: bool) -> None:
    """Where new weights come in the pause, caches of the old ones must not be read, not even before it is over."""
    prompt = text(300)
    expected = tokens(aggregated.complete(prompt, name("reference"), max_tokens=8))
    params = prefill(owner, prompt, name("before"))
    wait_until(lambda: held(owner) == 1, "it is kept")
    try:
        pause = http().post(f"{owner.url}/pause", params={"mode": "keep", "clear_cache": clears}, timeout=30.0)
        assert pause.status_code == 200
        wait_until(lambda: held(owner) == int(not clears), "what is held in the pause", SOON)
        answer = reader.post("/v1/completions", completion_body(prompt, 8, kv_transfer_params=params), name("in"))
        assert answer.status_code == (500 if clears else 200), answer.text
    finally:
        assert http().post(f"{owner.url}/resume", timeout=30.0).status_code == 200
    if not clears:
        assert tokens(answer.json()) == expected
    wait_until(lambda: held(owner) == 0, "it is free")
    after = reader.complete(prompt, name("after"), max_tokens=8, kv_transfer_params=prefill(owner, prompt, name("new")))
    assert tokens(after) == expected
