# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kill -9 of one of the owner's two ranks while readers of one rank and of two pull from it."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from churn_engines import MODELS, aggregated_of, environment
from engines import (
    Engine,
    Spec,
    completion_body,
    disaggregated,
    name,
    prefill,
    text,
    tokens,
    wait_until,
    wait_until_idle,
)
from pool import EnginePool
from test_crash import NOTICED
from test_topology import worker_pid

from kvdirect.harness.processes import alive_in_group, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import httpx

pytestmark = [pytest.mark.vllm, pytest.mark.kinds]

STALL = "stall"
MESSAGE = ("lanes", json.dumps(["message"]))
# The former fits into what an owner sends at a time, the latter does not.
SHORT, LONG = 20, 512
KILLED = 1
# vLLM ends an engine that has lost a rank.
OWNER_ENDS = 60.0


class Scene:
    """An owner of two ranks, from which every pull stands half-way while `stall` is there, and two readers of it."""

    def __init__(self, model: str, folder: Path) -> None:
        self.pool = EnginePool(MODELS[model].make(folder / "model"), folder)
        self.stall = folder / STALL
        self.expected: dict[str, list[int]] = {}
        self._threads = ThreadPoolExecutor(2)
        self._model, self._policies = model, POLICIES[model]

    def prompts(self, *lengths: int) -> list[str]:
        """Prompts, and in `expected` what an engine alone says to them; it has ended before the others start."""
        found = [text(length) for length in lengths]
        [aggregated] = self.pool.get(aggregated_of(self._model))
        self.expected = {prompt: tokens(aggregated.complete(prompt, name("reference"))) for prompt in found}
        self.pool.stop(aggregated.spec)
        return found

    def start(self) -> list[Engine]:
        """The owner, the reader of one rank, and that of two."""
        churned = MODELS[self._model]
        stalls = (MESSAGE, ("fault", '"stall"'), ("fault_file", f'"FOLDER/{STALL}"'))
        owner = Spec(
            "kv_producer",
            extra=stalls,
            options=churned.options(churned.prefill, 2),
            kv_port=free_port(),  # the same when it starts again
            engine_id="prefill",
            environment=environment(2),
        )
        readers = [
            Spec(
                "kv_consumer",
                extra=(MESSAGE,),
                options=churned.options(churned.decode, ranks),
                policy=policy,
                environment=environment(ranks),
            )
            for ranks, policy in enumerate(self._policies, 1)
        ]
        return self.pool.get(owner, *readers)

    def ask(self, reader: Engine, prompt: str, request_id: str, params: dict[str, Any]) -> Future[httpx.Response]:
        body = completion_body(prompt, 16, kv_transfer_params=params)
        return self._threads.submit(reader.post, "/v1/completions", body, request_id)

    def serves(self, owner: Engine, reader: Engine, prompt: str) -> None:
        """A disaggregated request has the right tokens, and every rank pulled; none stands half-way for long."""
        request_id = name("next")
        answer = self._threads.submit(disaggregated, owner, reader, prompt, request_id)
        while not answer.done():
            self.stall.unlink(missing_ok=True)
            time.sleep(0.05)
        assert tokens(answer.result()) == self.expected[prompt]
        assert {record["status"] for record in reader.pulls(request_id)} == {"ok"}

    def wait_for_the_stall(self, answer: Future[Any]) -> None:
        wait_until(lambda: self.stall.exists() or answer.done(), "a pull stands half-way", 60)
        assert not answer.done(), f"it never stalled: {answer.result()}"
        landed, total = map(int, self.stall.read_text().split())
        assert 0 < landed < total

    def assert_policies(self, responses: Sequence[httpx.Response], prompts: Sequence[str]) -> None:
        """What the readers of one rank and of two say to requests that cannot be loaded."""
        for policy, response, prompt in zip(self._policies, responses, prompts, strict=True):
            if policy == "recompute":
                assert response.status_code == 200, response.text
                assert tokens(response.json()) == self.expected[prompt]
            else:
                assert response.status_code == 500, response.text

    def close(self) -> None:
        self.stall.unlink(missing_ok=True)
        self._threads.shutdown()
        self.pool.stop_all()


# What the reader of one rank does when it cannot load, and that of two.
POLICIES = {"llama": ("fail", "recompute"), "window": ("recompute", "fail"), "state": ("fail", "recompute")}


@pytest.fixture(params=POLICIES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(request.param, tmp_path)
    yield scene
    scene.close()


def test_one_rank_is_killed_mid_pull(scene: Scene) -> None:
    """Requests hear of it in time and go by their policy; readers keep nothing, and pull from the successor."""
    short, for_one, for_two, late_one, late_two, next_one, next_two = scene.prompts(SHORT, *[LONG] * 6)
    owner, one, two = scene.start()
    first, second = name("first"), name("second")
    late = [prefill(owner, prompt, name("late")) for prompt in (late_one, late_two)]
    tickets = prefill(owner, for_one, first), prefill(owner, for_two, second)
    scene.serves(owner, two, short)  # so that its connections stand; this little comes at once
    answer_one = scene.ask(one, for_one, first, tickets[0])
    scene.wait_for_the_stall(answer_one)
    answer_two = scene.ask(two, for_two, second, tickets[1])
    wait_until(lambda: two.metric("vllm:kv_cache_usage_perc") > 0, "it has blocks, and pulls into them", 20)
    assert not answer_two.done()

    # The other rank goes on, and of two that read only one loses its owner.
    victim = worker_pid(owner, KILLED)
    os.kill(victim, signal.SIGSTOP)
    scene.stall.unlink()
    wait_until(lambda: bool(two.pulls(second)), "one rank has its half", 20)
    assert not answer_one.done()
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    responses = answer_one.result(60), answer_two.result(60)
    took = time.monotonic() - began
    [record], [whole, half] = ended(one, first, 1), ended(two, second, 2)
    assert whole["status"] == "ok", whole
    for lost in (record, half):
        assert lost["status"] == "failed"
        assert lost["reason"].startswith("PeerLost: pull: pull of "), lost
        assert f"rank {KILLED}" in lost["reason"], lost
    assert took < NOTICED
    scene.assert_policies(responses, (for_one, for_two))

    # Of tickets that were given before: the scheduler's process may still answer handshakes.
    answers = scene.ask(one, late_one, name("late"), late[0]), scene.ask(two, late_two, name("late"), late[1])
    scene.assert_policies([answer.result(60) for answer in answers], (late_one, late_two))
    wait_until_idle(one, two)
    assert [tokens(reader.complete(for_one, name("alone"))) for reader in (one, two)] == [scene.expected[for_one]] * 2

    wait_until(lambda: not alive_in_group(owner.process.group), "vLLM ends an engine that lost a rank", OWNER_ENDS)
    scene.pool.restart(owner)
    scene.serves(owner, one, next_one)
    scene.serves(owner, two, next_two)
    wait_until_idle(owner, one, two)


def ended(reader: Engine, request_id: str, ranks: int) -> list[dict[str, Any]]:
    """How a request's pulls ended, rank by rank, once all have."""
    wait_until(lambda: len(reader.pulls(request_id)) == ranks, f"{ranks} ranks have ended", 10)
    return sorted(reader.pulls(request_id), key=lambda record: record["rank"])
