# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kill -9 of either side in every state of a stream: the other one ends the request, and nothing of it is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from modelless_engine import Engine
from played_node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from played_node import Remote

CLAIM = "0123456789abcdef" * 2
# Seven steps of 64 tokens.
TOKENS = 400
DEADLINE = 30.0
# Steps that the prefill has made when one side is killed.
STATES = {"asked": 0, "begun": 1, "midway": 4, "computed": 7}
PLACES = [(state, "message") for state in STATES] + [("midway", "cma"), ("midway", "shm")]
PREFILL = {"do_remote_decode": True, "do_remote_prefill": False, "kvdirect_claim": CLAIM}
# Of leases whose readers are gone.
TERMS = {"lease_first_term": 2.0, "lease_term": 2.0, "affirm_within": 2.0}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    one = Node()
    yield one
    one.close()


def until(done: Callable[[], bool], *steps: Callable[[], object]) -> None:
    """Make these steps until it is so."""
    deadline = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < deadline
        for step in steps:
            step()
        time.sleep(0.002)


def reach(state: str, owner: Engine | Remote, reader: Engine | Remote) -> None:
    """Ask both, and let the prefill come so far."""
    owner.add("p", 1, TOKENS, PREFILL)
    where = {"remote_host": "127.0.0.1", "remote_port": owner.port}
    asks = {"do_remote_prefill": True, "do_remote_decode": False, "kvdirect_claim": CLAIM, **where}
    reader.add("d", 1, TOKENS, asks, max_tokens=2)
    reader.step()
    for _ in range(STATES[state]):
        owner.step()


@pytest.mark.parametrize(("state", "lane"), PLACES)
def test_an_owner_that_is_killed_costs_its_reader_the_stream_only(
    model: Path, node: Node, state: str, lane: str
) -> None:
    reader = Engine(model, "kv_consumer", lanes=[lane], streamed=True, **TERMS)
    try:
        with node.engine(model, "kv_producer", lanes=[lane], **TERMS) as owner:
            reach(state, owner, reader)
            if state == "midway":
                until(lambda: bool(reader.half._reader._streams), reader.step)
            owner.kill()
            until(lambda: "d" in reader.done, reader.step)
        until(lambda: not reader.left(), reader.step)
        assert reader.wrong == 0
        # It had blocks and a part of the cache, or had not and computed the prompt itself.
        assert dict(reader.ends) in ({"FINISHED_ERROR": 1}, {"FINISHED_LENGTH_CAPPED": 1})
        assert state != "midway" or reader.ends["FINISHED_ERROR"]
    finally:
        reader.close()


@pytest.mark.parametrize(("state", "lane"), PLACES)
def test_of_a_reader_that_is_killed_nothing_is_kept(model: Path, node: Node, state: str, lane: str) -> None:
    owner = Engine(model, "kv_producer", lanes=[lane], **TERMS)
    try:
        with node.engine(model, "kv_consumer", lanes=[lane], streamed=True, **TERMS) as reader:
            reach(state, owner, reader)
            if state == "midway":
                until(lambda: reader.step()["streams"] > 0)
            reader.kill()
            until(lambda: "p" in owner.done, owner.step)
        until(lambda: not owner.left(), owner.step)
        assert dict(owner.ends) == {"FINISHED_LENGTH_CAPPED": 1}
    finally:
        owner.close()
