# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""A real engine changes its role to and fro while requests run: none is lost, and the tokens are the same."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
    Engine,
    completion_body,
    name,
    text,
    tokens,
    wait_until,
    wait_until_idle,
)
from test_both import BOTH

from kvdirect.harness.http_client import http
from kvdirect.harness.processes import router

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, BOTH, DECODE)]

TOKEN = "0123456789abcdef-of-this-test"  # noqa: S105
CLIENTS = 4
WITHIN = 60.0  # seconds


@pytest.fixture
def url(pool: EnginePool, tmp_path: Path) -> Iterator[str]:
    """A router in front of an engine that prefills and one that decodes."""
    owner, reader = pool.get(PREFILL, DECODE)
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    process = router(owner.process, reader.process, tmp_path, options=("--admin-token-file", str(token)))
    process.start()
    try:
        wait_until(process.ready, "the router is ready")
        yield process.url
    finally:
        process.ask_to_stop()
        process.stop()


def call(router_url: str, path: str, **what: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = http().post(f"{router_url}/admin/instances{path}", json=what, headers=headers, timeout=60.0)
    assert answer.is_success, answer.text
    found: list[dict[str, Any]] = answer.json()["instances"]
    return found


def states(url: str, of: Engine) -> dict[str, dict[str, Any]]:
    """What an engine is, by role."""
    instances = http().get(f"{url}/status", timeout=60.0).json()["instances"]
    return {one["role"]: one for one in instances if one["url"] == of.url}


def test_an_engine_changes_its_role_under_load(pool: EnginePool, url: str) -> None:
    aggregated, both, reader = pool.get(AGGREGATED, BOTH, DECODE)
    prompts = [text(length) for length in (90, 150, 210, 300)]
    expected = [tokens(aggregated.complete(prompt, name("reference"), max_tokens=8)) for prompt in prompts]
    call(url, "", url=both.url, role="decode")
    stop, numbers, wrong, answered = threading.Event(), itertools.count(), list[str](), itertools.count()

    def keep_asking() -> None:
        while not stop.is_set():
            number = next(numbers) % len(prompts)
            body = completion_body(prompts[number], 8)
            answer = http().post(f"{url}/v1/completions", json=body, timeout=120.0)
            if answer.status_code != 200 or tokens(answer.json()) != expected[number]:
                wrong.append(f"{answer.status_code} {answer.text[:300]}")
            next(answered)

    def taken(role: str) -> int:
        found: int = states(url, both).get(role, {"requests": 0})["requests"]
        return found

    with ThreadPoolExecutor(CLIENTS) as threads:
        for _ in range(CLIENTS):
            threads.submit(keep_asking)
        try:
            wait_until(lambda: taken("decode") > 3, "it decodes", WITHIN)
            for role, other in (("prefill", "decode"), ("decode", "prefill")):
                call(url, "/role", url=both.url, role=role)
                wait_until(lambda: taken(role) > 0, f"it is asked to {role}", WITHIN)  # noqa: B023
                wait_until(lambda: other not in states(url, both), f"no more {other}", WITHIN)  # noqa: B023
                wait_until(lambda: taken(role) > 3, f"it does {role}", WITHIN)  # noqa: B023
        finally:
            stop.set()
    assert wrong == []
    assert next(answered) > 8
    wait_until_idle(both, reader)
