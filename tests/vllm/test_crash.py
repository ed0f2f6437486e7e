# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kill -9 of either engine while a pull stands half-way, and its restart at the same address."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest
from engines import (
    AGGREGATED,
    BLOCK,
    Engine,
    Spec,
    completion_body,
    disaggregated,
    name,
    only_pull,
    prefill,
    text,
    tokens,
    wait_until,
)

from kvdirect.harness.processes import alive_in_group, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from pool import EnginePool

# Long enough that a busy machine connects within the first, short enough to wait for.
FIRST_TERM, TERM = 30, 6
PROMPT = 16 * BLOCK
# Within this a request must hear that its owner was killed: the promise of docs/reliability.md.
NOTICED = 5.0
# Of the owners, which are restarted at the same address.
PORTS = {"cma": free_port(), "message-decode": free_port(), "message-prefill": free_port()}
# So named, test_refusals.py can use these engines too.
MODEL = ("model_id", '"another"')


def owner_spec(lane: str, place: str, *stall: tuple[str, str]) -> Spec:
    extra = (("lanes", json.dumps([lane])), ("lease_first_term", str(FIRST_TERM)), MODEL, *stall)
    return Spec("kv_producer", extra=extra, kv_port=PORTS[place], engine_id=f"prefill-{place}")


def reader_spec(lane: str, policy: str, place: str, *stall: tuple[str, str]) -> Spec:
    extra = (("lanes", json.dumps([lane])), ("lease_term", str(TERM)), MODEL, *stall)
    return Spec("kv_consumer", extra=extra, policy=policy, engine_id=f"decode-{place}")


MESSAGE_READER = reader_spec("message", "fail", "message")


def stall_file(lane: str, killed: str) -> str:
    return f"stall-{lane}-{killed}"


def engines_of(lane: str, policy: str, killed: str) -> tuple[Spec, Spec, Spec]:
    """What stalls is new for each test, at an address of its own; the other side is the same in both of a lane."""
    stall = (("fault", '"stall"'), ("fault_file", f'"FOLDER/{stall_file(lane, killed)}"'))
    place = f"{lane}-{killed}"
    # What stalls copies the bytes: the reader on cma, the owner on message.
    if lane == "cma":
        return AGGREGATED, owner_spec(lane, lane), reader_spec(lane, policy, place, *stall)
    return AGGREGATED, owner_spec(lane, place, *stall), reader_spec(lane, policy, lane)


class Scene:
    """An aggregated engine, an owner and a reader; the first pull between these two will stand half-way."""

    def __init__(self, pool: EnginePool, lane: str, policy: str, killed: str) -> None:
        self.pool, self.lane, self.policy = pool, lane, policy
        self._file = pool.folder / stall_file(lane, killed)
        self._threads = ThreadPoolExecutor(2)
        self._specs = engines_of(lane, policy, killed)
        self.aggregated, self.owner, self.reader = pool.get(*self._specs)

    def expected(self, prompt: str) -> list[int]:
        return tokens(self.aggregated.complete(prompt, name("reference")))

    def ask(self, prompt: str, request_id: str, params: dict[str, object]) -> Future[httpx.Response]:
        body = completion_body(prompt, 16, kv_transfer_params=params)
        return self._threads.submit(self.reader.post, "/v1/completions", body, request_id)

    def ask_and_stall(self, prompt: str, request_id: str) -> Future[httpx.Response]:
        """A request whose pull stands half-way when this returns."""
        answer = self.ask(prompt, request_id, prefill(self.owner, prompt, request_id))
        self._wait_for_the_stall(answer)
        return answer

    def go_on(self) -> None:
        self._file.unlink(missing_ok=True)

    def serves(self, *, stalls: bool) -> None:
        """A disaggregated request has the right tokens, and they came over the wire."""
        prompt, request_id = text(PROMPT), name("next")
        answer = self._threads.submit(disaggregated, self.owner, self.reader, prompt, request_id)
        if stalls:
            self._wait_for_the_stall(answer)
            self.go_on()
        assert tokens(answer.result(120)) == self.expected(prompt)
        record = only_pull(self.reader, request_id)
        assert (record["status"], record["lane"]) == ("ok", self.lane)
        assert record["blocks"] == PROMPT // BLOCK

    def close(self) -> None:
        self.go_on()
        self._threads.shutdown()

    def _wait_for_the_stall(self, answer: Future[httpx.Response] | Future[dict[str, object]]) -> None:
        wait_until(lambda: self._file.exists() or answer.done(), "a pull stands half-way", 60)
        assert not answer.done(), f"it never stalled: {answer.result()}"
        landed, total = map(int, self._file.read_text().split())
        assert 0 < landed < total


def killed(test: pytest.Function) -> str:
    """ "decode" or "prefill", by the test's name."""
    return test.originalname.split("_")[1]


@pytest.fixture(params=[("cma", "recompute"), ("message", "fail")], ids=["cma-recompute", "message-fail"])
def scene(pool: EnginePool, request: pytest.FixtureRequest) -> Iterator[Scene]:
    scene = Scene(pool, *request.param, killed(request.node))
    yield scene
    scene.close()


pytestmark = [
    pytest.mark.vllm,
    pytest.mark.engines(lambda test: engines_of(*test.callspec.params["scene"], killed(test))),
]


def kill(engine: Engine) -> float:
    """SIGKILL to all its processes at once; when, by the monotonic clock."""
    killed = time.monotonic()
    os.killpg(engine.process.group, signal.SIGKILL)
    engine.process.stop()
    assert not alive_in_group(engine.process.group)
    return killed


def leases_held(owner: Engine) -> float:
    samples = owner.samples()
    granted = sum(s.value for s in samples if s.name == "vllm:kvdirect_num_granted_leases_total")
    return granted - sum(s.value for s in samples if s.name == "vllm:kvdirect_num_ended_leases_total")


def test_decode_is_killed_mid_pull(scene: Scene) -> None:
    """Its lease runs out, the blocks come back, and a decode engine restarted at its address is served at once."""
    owner = scene.owner
    expired = owner.metric("vllm:kvdirect_num_ended_leases_total", reason="expired")
    answer = scene.ask_and_stall(text(PROMPT), name("doomed"))
    # vLLM answers a request before it publishes the step's gauges.
    wait_until(lambda: owner.metric("vllm:kv_cache_usage_perc") > 0, "the owner's blocks are held", FIRST_TERM)
    kill(scene.reader)
    with contextlib.suppress(httpx.TransportError):
        pytest.fail(f"a killed engine answered: {answer.result(30)}")
    slack = 15  # until vLLM publishes it, on a busy machine
    wait_until(
        lambda: owner.metric("vllm:kv_cache_usage_perc") == 0, "the blocks come back", max(FIRST_TERM, TERM) + slack
    )
    wait_until(lambda: leases_held(owner) == 0, "no lease is left")
    assert owner.metric("vllm:kvdirect_num_ended_leases_total", reason="expired") == expired + 1
    assert owner.healthy()
    prompt = text(PROMPT)
    assert tokens(owner.complete(prompt, name("alone"))) == scene.expected(prompt)
    scene.go_on()
    scene.pool.restart(scene.reader)
    scene.serves(stalls=scene.lane == "cma")
    wait_until(lambda: leases_held(owner) == 0, "the next lease ends too")


def test_prefill_is_killed_mid_pull(scene: Scene) -> None:
    """The request fails or is recomputed within 5 s; decode goes on, and pulls from the successor at once."""
    reader = scene.reader
    prompt, unused, late, request_id = text(PROMPT), text(PROMPT), name("late"), name("orphan")
    expected, expected_late = scene.expected(prompt), scene.expected(unused)
    old_ticket = prefill(scene.owner, unused, late)
    answer = scene.ask_and_stall(prompt, request_id)
    killed = kill(scene.owner)
    response = answer.result(60)
    assert time.monotonic() - killed < NOTICED
    assert_policy(scene, response, expected, record_of(reader, request_id), "PeerLost")
    scene.go_on()
    assert reader.healthy()
    wait_until(lambda: reader.metric("vllm:kv_cache_usage_perc") == 0, "its blocks are free")
    alone = text(PROMPT)
    assert tokens(reader.complete(alone, name("alone"))) == scene.expected(alone)

    scene.pool.restart(scene.owner)
    response = scene.ask(unused, late, old_ticket).result(60)
    assert_policy(scene, response, expected_late, record_of(reader, late), "LeaseExpired")
    assert "the owner was restarted" in only_pull(reader, late)["reason"]
    scene.serves(stalls=scene.lane == "message")
    assert reader.healthy()
    wait_until(lambda: leases_held(scene.owner) == 0, "all leases end")
    wait_until(lambda: scene.owner.metric("vllm:kv_cache_usage_perc") == 0, "the owner's blocks are free")
    wait_until(lambda: reader.metric("vllm:kv_cache_usage_perc") == 0, "the reader's blocks are free")


def record_of(reader: Engine, request_id: str) -> dict[str, object]:
    """The record of a request whose answer is here already."""
    wait_until(lambda: bool(reader.pulls(request_id)), "the pull is logged")
    return only_pull(reader, request_id)


def assert_policy(
    scene: Scene, response: httpx.Response, expected: list[int], record: dict[str, object], reason: str
) -> None:
    """The pull failed for that reason, and the client got what kv_load_failure_policy says."""
    assert record["status"] == "failed"
    assert str(record["reason"]).startswith(reason), record
    if scene.policy == "recompute":
        assert response.status_code == 200, response.text
        assert tokens(response.json()) == expected
    else:
        assert response.status_code == 500, response.text
        assert response.json()["error"]["message"]
