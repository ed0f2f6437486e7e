# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Both legs of a request at once, between real engines: the same tokens, pulled, and nobody waits in vain."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
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
    text,
    tokens,
    wait_until,
    wait_until_idle,
)
from test_request_ends import stopped

from kvdirect.harness.http_client import http as client
from kvdirect.harness.processes import router

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]

COMPLETIONS = "/v1/completions"


def leases(engine: Engine) -> float:
    """Granted and not ended yet: an engine that tests share may keep some of an earlier one's."""
    granted, ended = (engine.metric(f"vllm:kvdirect_num_{what}_leases_total") for what in ("granted", "ended"))
    return granted - ended


@contextlib.contextmanager
def dispatching(owner: Engine, reader: Engine, tmp_path: Path) -> Iterator[str]:
    """The URL of a router that sends both legs at once, and knows that the owner understands that."""
    before = leases(owner)
    process = router(owner.process, reader.process, tmp_path, options=("--dispatch", "concurrent"))
    process.start()
    try:
        wait_until(process.ready, "the router is ready")
        ask(process.url, text(40), name("first"))
        yield process.url
        wait_until(lambda: leases(owner) <= before, "every lease of the test has ended")
        wait_until_idle(reader)
    finally:
        process.ask_to_stop()
        process.stop()


@pytest.fixture
def at_once(owner: Engine, reader: Engine, tmp_path: Path) -> Iterator[str]:
    with dispatching(owner, reader, tmp_path) as url:
        yield url


def ask(url: str, prompt: str, request_id: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    body = completion_body(prompt, 12, **more)
    answer = client().post(url + COMPLETIONS, json=body, headers={"X-Request-Id": request_id}, timeout=120.0)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def hang_up(url: str, prompt: str, after: float) -> None:
    """A client that does not wait for the answer."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120.0)
    body = json.dumps(completion_body(prompt, 12))
    connection.request("POST", COMPLETIONS, body, {"Content-Type": "application/json", "X-Request-Id": name("gone")})
    time.sleep(after)
    connection.close()


def test_tokens_are_the_same_and_each_cache_is_pulled(
    at_once: str, aggregated: Engine, owner: Engine, reader: Engine
) -> None:
    prompts = [text(length) for length in (3, 17, 64, 200, 333, 480)]
    before, completed = len(reader.pulls()), ended_leases(owner, "completed")
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: ask(at_once, prompt, name("both")), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert tokens(answer) == tokens(aggregated.complete(prompt, name("reference"), max_tokens=12))
    pulled = reader.pulls()[before:]
    assert [record["status"] for record in pulled] == ["ok"] * len(prompts)
    wait_until(lambda: ended_leases(owner, "completed") == completed + len(prompts), "leases are completed")


def test_a_reader_whose_owner_stands_still_holds_no_blocks(at_once: str, owner: Engine, reader: Engine) -> None:
    before = len(reader.pulls())
    with ThreadPoolExecutor(1) as pool:
        with stopped(owner):
            asked = pool.submit(ask, at_once, text(200), name("waits"))
            wait_until(lambda: reader.metric("vllm:num_requests_waiting") > 0, "the reader has its leg")
            time.sleep(0.5)
            assert reader.metric("vllm:kv_cache_usage_perc") == 0
            assert not asked.done()
        assert len(tokens(asked.result())) == 12
    assert [record["status"] for record in reader.pulls()[before:]] == ["ok"]


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.3])
def test_clients_that_hang_up_leave_nothing(at_once: str, after: float) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda length: hang_up(at_once, text(length), after), [60, 120, 200, 300, 400, 480]))


def test_a_prefill_that_is_refused_is_answered_at_once(at_once: str, owner: Engine) -> None:
    refused = owner.metric("vllm:kvdirect_num_granted_leases_total")
    answer = client().post(at_once + COMPLETIONS, json=completion_body(text(100), 12, temperature=-5), timeout=60.0)
    assert answer.status_code == 400, answer.text
    assert owner.metric("vllm:kvdirect_num_granted_leases_total") == refused
