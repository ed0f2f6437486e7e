# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Requests that do not end as planned: aborted in every state, preempted, failed, refused, given to nobody."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from engines import (
    AGGREGATED,
    ASK_TO_KEEP,
    DECODE,
    PREFILL,
    SMALL,
    Engine,
    completion_body,
    disaggregated,
    ended_leases,
    name,
    only_pull,
    prefill,
    text,
    tokens,
    wait_until,
    wait_until_ended,
    wait_until_idle,
)
from test_both import BOTH

from kvdirect.harness.accounting import total
from kvdirect.transfer_params import RemoteLease, prompt_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, SMALL, PREFILL, DECODE)]

COMPLETIONS = "/v1/completions"
PREEMPTIONS = "vllm:num_preemptions_total"


@contextlib.contextmanager
def stopped(engine: Engine) -> Iterator[None]:
    """All processes of the engine stand still; what is sent to it waits in the kernel."""
    os.killpg(engine.process.group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(engine.process.group, signal.SIGCONT)


@contextlib.contextmanager
def core_stopped(engine: Engine) -> Iterator[Callable[[], None]]:
    """Only the core stands still, but for a moment with each call of what this gives; the API server goes on.

    What the API server tells the core meanwhile is what the core hears first.
    """
    cores = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            pid, name_and_rest = stat.read_text().split(" (", 1)
            title, rest = name_and_rest.rsplit(")", 1)
            if title.startswith("VLLM::EngineCor") and int(rest.split()[2]) == engine.process.group:
                cores.append(int(pid))
    assert cores, "the engine has a process that calls itself VLLM::EngineCore"

    def send(number: signal.Signals) -> None:
        for core in cores:
            os.kill(core, number)

    def moment() -> None:
        send(signal.SIGCONT)
        time.sleep(0.02)
        send(signal.SIGSTOP)

    send(signal.SIGSTOP)
    try:
        yield moment
    finally:
        send(signal.SIGCONT)


def let_the_server_notice(engine: Engine) -> None:
    """Turns of the API server's loop, in which it sees that a client hung up and says so to the core."""
    for _ in range(20):
        engine.samples()


@contextlib.contextmanager
def request(engine: Engine, body: dict[str, Any], request_id: str) -> Iterator[http.client.HTTPConnection]:
    """A client that has sent its request; it hangs up at the end of the block, whatever has come."""
    connection = http.client.HTTPConnection(urlsplit(engine.url).netloc, timeout=120.0)
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    connection.request("POST", COMPLETIONS, json.dumps(body), headers)
    try:
        yield connection
    finally:
        connection.close()


def answer(connection: http.client.HTTPConnection) -> dict[str, Any]:
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    result: dict[str, Any] = json.loads(body)
    return result


def seen(engine: Engine) -> float:
    """Requests that the engine has, or has finished (aborted ones do not count)."""
    states = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:request_success_total")
    samples = engine.samples()
    return sum(total(samples, state) for state in states)


@contextlib.contextmanager
def arriving(engine: Engine, count: int = 1) -> Iterator[None]:
    """Requests that are sent in this block have arrived at its end."""
    before = settled(engine)
    yield
    wait_until(lambda: seen(engine) >= before + count, f"{count} requests arrive beside the {before:.0f} before them")


def settled(engine: Engine) -> float:
    """What is seen twice in a row: one that ends in between may be counted as running, as finished, or as both."""
    last = seen(engine)
    for _ in range(100):
        time.sleep(0.02)
        if (now := seen(engine)) == last:
            return now
        last = now
    raise AssertionError(f"the engine's requests do not settle: {last:.0f}")


@contextlib.contextmanager
def busy(engine: Engine) -> Iterator[None]:
    """Many more requests than run at a time (SMALL: two), for seconds; they hang up in the end."""
    with contextlib.ExitStack() as stack:
        with arriving(engine, 12), stopped(engine):  # so that all of them are there before the first has run
            for _ in range(12):
                stack.enter_context(request(engine, completion_body(text(20), 600), name("busy")))
        yield


@pytest.fixture
def small(pool: EnginePool) -> Iterator[Engine]:
    """The engine that has little of everything, and nothing left behind in it afterwards."""
    engine, *_ = pool.get(SMALL, AGGREGATED, PREFILL, DECODE)  # start together
    yield engine
    wait_until_idle(engine, seconds=60.0)


def asked(prompt: str, **more: object) -> dict[str, Any]:
    """What a router asks of the prefill engine."""
    return completion_body(prompt, 1, kv_transfer_params=ASK_TO_KEEP, **more)


def works(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    """A request after all that goes its usual way."""
    prompt, request_id = text(100), name("afterwards")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert tokens(disaggregated(owner, reader, prompt, request_id)) == expected
    assert only_pull(reader, request_id)["status"] == "ok"


def abort_a_running_prefill(small: Engine) -> None:
    with core_stopped(small) as moment:
        with request(small, asked(text(690)), name("chunked")):

            def runs() -> bool:
                moment()
                return small.metric("vllm:kv_cache_usage_perc") > 0

            wait_until(runs, "it runs, in 173 steps")
        let_the_server_notice(small)


def test_prefills_aborted_while_they_wait_and_while_they_run(pool: EnginePool, small: Engine) -> None:
    """What has begun has a lease, which is revoked; what has not has none. The slots come back."""
    aggregated, reader = pool.get(AGGREGATED, DECODE)
    revoked = ended_leases(small, "revoked")
    with busy(small):
        with contextlib.ExitStack() as stack, arriving(small):
            stack.enter_context(request(small, asked(text(90)), name("waiting")))
        let_the_server_notice(small)
    wait_until_idle(small)
    assert ended_leases(small, "revoked") == revoked
    for _ in range(5):  # how soon the API server hears of the end of a connection is the machine's affair
        abort_a_running_prefill(small)
        wait_until_idle(small)
        if ended_leases(small, "revoked") > revoked:
            break
    assert ended_leases(small, "revoked") == revoked + 1
    works(aggregated, small, reader)


def test_leases_that_nobody_takes_run_out(pool: EnginePool, small: Engine) -> None:
    """A client that is gone, samples of which one ticket is returned, a body that vLLM refuses before it reads it."""
    aggregated, reader = pool.get(AGGREGATED, DECODE)
    expired = ended_leases(small, "expired")
    prefill(small, text(100), name("gone"))
    several = asked(text(100), n=2, top_k=1) | {"temperature": 1.0}
    assert small.post(COMPLETIONS, several, name("several")).status_code == 200
    prompt = text(100)
    params = prefill(small, prompt, name("malformed"))
    malformed = completion_body(prompt, 8, kv_transfer_params=params) | {"max_tokens": "many"}
    assert reader.post(COMPLETIONS, malformed, name("malformed")).status_code in {400, 422}
    wait_until(lambda: small.metric("vllm:kv_cache_usage_perc") > 0, "vLLM says that the blocks are held")
    wait_until_ended(small, "expired", expired + 4)
    late = name("late")
    response = reader.post(COMPLETIONS, completion_body(prompt, 8, kv_transfer_params=params), late)
    assert response.status_code == 500
    assert only_pull(reader, late)["reason"].startswith("LeaseExpired")
    works(aggregated, small, reader)


def test_a_decode_aborted_in_the_queue_completes_its_lease(pool: EnginePool, small: Engine) -> None:
    owner = pool.get(PREFILL)[0]
    prompt, request_id = text(200), name("queued")
    params = prefill(owner, prompt, request_id)
    completed = ended_leases(owner, "completed")
    with busy(small):
        with contextlib.ExitStack() as stack, arriving(small):
            body = completion_body(prompt, 8, kv_transfer_params=params)
            stack.enter_context(request(small, body, request_id))
        wait_until(lambda: ended_leases(owner, "completed") == completed + 1, "the owner hears of it")
        assert small.metric("vllm:num_requests_running") > 0, "while others still run"
    assert small.pulls(request_id) == []


@pytest.mark.parametrize("connected", [False, True], ids=["while it connects", "while it pulls"])
def test_a_decode_aborted_while_its_owner_stands_still(pool: EnginePool, small: Engine, connected: bool) -> None:
    """Its blocks come back without the owner's help; the owner hears of it when it goes on."""
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    if connected:
        works(aggregated, owner, small)
    prompt, request_id = text(400), name("stalled")
    params = prefill(owner, prompt, request_id)
    if not connected:  # the same owner under another name is another connection
        params |= {"remote_host": "localhost" if params["remote_host"] != "localhost" else "127.0.0.1"}
    completed = ended_leases(owner, "completed")
    with stopped(owner):
        with request(small, completion_body(prompt, 8, kv_transfer_params=params), request_id):
            wait_until(lambda: small.metric("vllm:kv_cache_usage_perc") > 0, "it has its blocks")
            assert small.metric("vllm:num_requests_waiting") == 1
        wait_until(lambda: bool(small.pulls(request_id)), "the worker gives it up")
        wait_until_idle(small)
    assert only_pull(small, request_id)["reason"].startswith("cancelled")
    wait_until(lambda: ended_leases(owner, "completed") == completed + 1, "the owner hears of it")
    works(aggregated, owner, small)


def test_a_decode_aborted_while_it_decodes(pool: EnginePool, small: Engine) -> None:
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    prompt, request_id = text(200), name("decoding")
    params = prefill(owner, prompt, request_id)
    completed = ended_leases(owner, "completed")
    made = small.metric("vllm:generation_tokens_total")
    body = completion_body(prompt, 450, kv_transfer_params=params, stream=True)
    with request(small, body, request_id) as connection:
        assert connection.getresponse().readline().startswith(b"data: ")
    wait_until_idle(small)
    assert small.metric("vllm:generation_tokens_total") - made < 450
    assert only_pull(small, request_id)["status"] == "ok"
    wait_until(lambda: ended_leases(owner, "completed") == completed + 1, "it was completed before")
    works(aggregated, owner, small)


def test_preemption_on_the_reader(pool: EnginePool, small: Engine) -> None:
    """What was pulled is lost with the blocks; the request computes its prompt again and pulls nothing again."""
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    prompts, names = [text(290), text(290)], [name("preempted"), name("preempted")]
    expected = [tokens(aggregated.complete(prompt, name("reference"), max_tokens=200)) for prompt in prompts]
    params = [prefill(owner, prompt, request_id) for prompt, request_id in zip(prompts, names, strict=True)]
    completed = ended_leases(owner, "completed")
    before = small.metric(PREEMPTIONS)
    bodies = [completion_body(prompts[i], 200, kv_transfer_params=params[i]) for i in range(2)]
    with contextlib.ExitStack() as stack:
        with stopped(small):  # so that both are there before the first has run
            pairs = zip(bodies, names, strict=True)
            sent = [stack.enter_context(request(small, body, request_id)) for body, request_id in pairs]
        assert [tokens(answer(connection)) for connection in sent] == expected
    wait_until(lambda: small.metric(PREEMPTIONS) > before, "vLLM publishes its counters")
    assert [only_pull(small, request_id)["status"] for request_id in names] == ["ok", "ok"]
    wait_until(lambda: ended_leases(owner, "completed") == completed + 2, "each lease is completed once")


def test_preemption_on_the_owner(pool: EnginePool, small: Engine) -> None:
    """The blocks go without anybody being asked, so the lease on them is ended first and a new one made."""
    aggregated, reader = pool.get(AGGREGATED, DECODE)
    prompts, names = [text(420), text(420)], [name("preempted"), name("preempted")]
    expected = [tokens(aggregated.complete(prompt, name("reference"))) for prompt in prompts]
    before, revoked = small.metric(PREEMPTIONS), ended_leases(small, "revoked")
    with contextlib.ExitStack() as stack:
        with stopped(small):  # so that both are there before the first has run
            pairs = zip(prompts, names, strict=True)
            sent = [stack.enter_context(request(small, asked(prompt), request_id)) for prompt, request_id in pairs]
        # One lease holds more than half of the blocks, so the second prefill ends only after the first decode.
        with ThreadPoolExecutor(2) as threads:
            got = list(
                threads.map(
                    lambda i: reader.complete(
                        prompts[i], names[i], kv_transfer_params=answer(sent[i])["kv_transfer_params"]
                    ),
                    range(2),
                )
            )
    assert list(map(tokens, got)) == expected
    wait_until(lambda: small.metric(PREEMPTIONS) > before, "vLLM publishes its counters")
    assert [only_pull(reader, request_id)["status"] for request_id in names] == ["ok", "ok"]
    wait_until(lambda: ended_leases(small, "revoked") > revoked, "the first lease was revoked")
    wait_until_idle(small)


def under_another_epoch(params: dict[str, Any], prompt_ids: list[int]) -> dict[str, Any]:
    """A ticket whose lease does not exist, for the same prompt."""
    lease = RemoteLease.decode(params["kvdirect_lease"])
    lease = replace(lease, epoch=lease.epoch ^ 1)
    return params | {"kvdirect_lease": lease.encode(), "kvdirect_prompt": prompt_digest(prompt_ids, lease.epoch)}


@pytest.mark.parametrize("policy", ["fail", "recompute"])
def test_several_samples_whose_pulls_fail(pool: EnginePool, small: Engine, policy: str) -> None:
    """All of them fail, or all of them are computed here; nothing is held, and the true lease is still good."""
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    reader = small if policy == "recompute" else pool.get(DECODE)[0]
    prompt, request_id = text(180), name(policy)
    reference = aggregated.complete(prompt, name("reference"))
    params = prefill(owner, prompt, request_id)
    wrong = under_another_epoch(params, reference["choices"][0]["prompt_token_ids"])
    body = completion_body(prompt, 16, n=2, top_k=1, kv_transfer_params=wrong) | {"temperature": 1.0}
    response = reader.post(COMPLETIONS, body, request_id)
    if policy == "fail":
        assert response.status_code == 500
    else:
        assert [choice["token_ids"] for choice in response.json()["choices"]] == [tokens(reference)] * 2
    assert {record["status"] for record in reader.pulls(request_id)} == {"failed"}
    assert all(record["reason"].startswith("LeaseExpired") for record in reader.pulls(request_id))
    wait_until_idle(reader)
    completed = ended_leases(owner, "completed")
    assert tokens(reader.complete(prompt, name("true"), kv_transfer_params=params)) == tokens(reference)
    wait_until(lambda: ended_leases(owner, "completed") == completed + 1, "the true lease is completed")


@pytest.mark.engines(AGGREGATED, SMALL, PREFILL, DECODE, BOTH)
def test_two_engines_read_from_each_other_at_the_same_time(pool: EnginePool, small: Engine) -> None:
    aggregated, other, _ = pool.get(AGGREGATED, BOTH, SMALL)
    prompts = [text(length) for length in (40, 170, 33, 256, 90, 300)]
    expected = [tokens(aggregated.complete(prompt, name("reference"))) for prompt in prompts]
    names = [name("crossing") for _ in prompts]

    def run(i: int) -> list[int]:
        owner, reader = (small, other) if i % 2 else (other, small)
        return tokens(disaggregated(owner, reader, prompts[i], names[i]))

    with ThreadPoolExecutor(len(prompts)) as threads:
        assert list(threads.map(run, range(len(prompts)))) == expected
    for i, request_id in enumerate(names):
        assert only_pull(other if i % 2 else small, request_id)["status"] == "ok"
    wait_until_idle(small, other)
