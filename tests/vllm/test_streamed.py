# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Streamed pulls between real engines: prompts of many chunks are read while they are computed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from engines import AGGREGATED, PREFILL, Engine, Spec, ended_leases, name, text, tokens, wait_until
from test_both_legs import ask, dispatching, hang_up
from test_request_ends import stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pool import EnginePool

READER = Spec("kv_consumer", extra=(("streamed", "true"),), policy="recompute")
pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, READER)]


@pytest.fixture
def trio(pool: EnginePool) -> list[Engine]:
    return pool.get(AGGREGATED, PREFILL, READER)


@pytest.fixture
def streamed(owner: Engine, reader: Engine, tmp_path: Path) -> Iterator[str]:
    with dispatching(owner, reader, tmp_path) as url:
        yield url


def test_tokens_are_the_same_and_long_prompts_come_in_pieces(
    streamed: str, aggregated: Engine, owner: Engine, reader: Engine
) -> None:
    """Of 192 tokens are its steps: the longest prompt is computed in ten."""
    prompts = [text(length) for length in (3, 17, 64, 200, 480, 1000, 1900)]
    before, completed = len(reader.pulls()), ended_leases(owner, "completed")
    streams = reader.metric("vllm:kvdirect_exposed_time_seconds_count")
    answers = [ask(streamed, prompt, name("stream")) for prompt in prompts]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert tokens(answer) == tokens(aggregated.complete(prompt, name("reference"), max_tokens=12))
    pulled = reader.pulls()[before:]
    assert [record["status"] for record in pulled] == ["ok"] * len(prompts)
    assert [record["pieces"] for record in pulled[:3]] == [1, 1, 1]
    assert pulled[-1]["pieces"] > 2
    several = sum(record["pieces"] > 1 for record in pulled)
    wait_until(lambda: reader.metric("vllm:kvdirect_exposed_time_seconds_count") == streams + several, "it is counted")
    assert 0 < reader.metric("vllm:kvdirect_streamed_bytes_sum") < sum(record["bytes"] for record in reader.pulls())
    wait_until(lambda: ended_leases(owner, "completed") == completed + len(prompts), "leases are completed")


def test_many_at_once(streamed: str, aggregated: Engine, reader: Engine) -> None:
    prompts = [text(length) for length in (1500, 300, 900, 50, 1200, 700)]
    before = len(reader.pulls())
    with ThreadPoolExecutor(len(prompts)) as threads:
        answers = list(threads.map(lambda prompt: ask(streamed, prompt, name("many")), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert tokens(answer) == tokens(aggregated.complete(prompt, name("reference"), max_tokens=12))
    assert [record["status"] for record in reader.pulls()[before:]] == ["ok"] * len(prompts)


@pytest.mark.parametrize("after", [0.05, 0.3, 0.8])
def test_clients_that_hang_up_in_a_stream_leave_nothing(streamed: str, after: float) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda length: hang_up(streamed, text(length), after), [600, 1000, 1400, 1900]))


def test_an_owner_that_stands_still_in_a_stream_is_waited_for(streamed: str, aggregated: Engine, owner: Engine) -> None:
    met = 0
    with ThreadPoolExecutor(1) as threads:
        # How far each is at its moment is the machine's to say; some machine's prefills are over before all of them.
        for after in (0.2, 0.1, 0.05, 0.02, 0.3):
            prompt = text(1800)
            asked = threads.submit(ask, streamed, prompt, name("waits"))
            time.sleep(after)
            with stopped(owner):
                time.sleep(1.0)
                met += not asked.done()
            assert tokens(asked.result()) == tokens(aggregated.complete(prompt, name("reference"), max_tokens=12))
    assert met
