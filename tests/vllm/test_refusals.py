# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What does not fit is refused by name, and both engines go on serving."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from engines import (
    AGGREGATED,
    BLOCK,
    DECODE,
    PREFILL,
    Engine,
    Spec,
    block_bytes,
    completion_body,
    disaggregated,
    name,
    only_pull,
    prefill,
    text,
    tokens,
    wait_until,
)
from test_crash import MESSAGE_READER

from kvdirect.harness.processes import free_port

if TYPE_CHECKING:
    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]


OTHER_TYPE = Spec("kv_consumer", options=(("--dtype", "bfloat16"),))
LARGER_BLOCKS = Spec("kv_consumer", options=(("--block-size", "64"),))


@pytest.mark.engines(PREFILL, OTHER_TYPE)
def test_mismatch_names_the_field_and_both_values(pool: EnginePool) -> None:
    field, here, there = "dtype", "float32", "bfloat16"
    owner, reader = pool.get(PREFILL, OTHER_TYPE)
    prompt = text(100)
    params = prefill(owner, prompt, name("mismatch"))
    response = reader.post("/v1/completions", completion_body(prompt, 8, kv_transfer_params=params), name("mismatch"))
    assert response.status_code == 500, response.text
    assert f"{field} differs: {here} at the owner, {there} at the reader" in reader.log
    assert f"refused a reader: {field} is {here} here and {there} there" in owner.log
    assert len(tokens(reader.complete(prompt, name("afterwards")))) == 16
    assert len(tokens(owner.complete(prompt, name("afterwards")))) == 16
    counted = "vllm:kvdirect_num_handshakes_total"
    wait_until(lambda: owner.metric(counted, outcome="refused") >= 1, "vLLM publishes its counters")
    pool.stop(OTHER_TYPE)


@pytest.mark.engines(AGGREGATED, PREFILL, LARGER_BLOCKS)
@pytest.mark.parametrize("length", [33, 97, 700])
def test_other_block_sizes_are_no_mismatch(pool: EnginePool, length: int) -> None:
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, LARGER_BLOCKS)
    prompt, request_id = text(length), name("blocks")
    got = tokens(disaggregated(owner, reader, prompt, request_id))
    record = only_pull(reader, request_id)
    # Whole blocks of the reader's, as far as the owner's smaller ones reach.
    positions = min(-(-(length - 1) // 64) * 64, -(-length // BLOCK) * BLOCK)
    assert record["bytes"] == positions * block_bytes(pool) // BLOCK
    assert got == tokens(aggregated.complete(prompt, name("reference")))


@pytest.mark.engines(PREFILL, MESSAGE_READER)
def test_another_model_is_refused_by_name(pool: EnginePool) -> None:
    owner, reader = pool.get(PREFILL, MESSAGE_READER)
    prompt = text(100)
    params = prefill(owner, prompt, name("model"))
    response = reader.post("/v1/completions", completion_body(prompt, 8, kv_transfer_params=params), name("model"))
    assert response.status_code == 500, response.text
    assert "model differs: " in reader.log
    assert " at the owner, another at the reader" in reader.log
    assert len(tokens(reader.complete(prompt, name("afterwards")))) == 16


def test_parameters_that_are_no_object_do_not_end_the_engine(aggregated: Engine, reader: Engine, owner: Engine) -> None:
    """vllm_xargs lets a client put anything there; vLLM 0.32 itself answers that with an error."""
    prompt = text(70)
    expected = tokens(aggregated.complete(prompt, name("reference")))
    for engine in (reader, owner):
        body = completion_body(prompt, 16, vllm_xargs={"kv_transfer_params": "x"})
        assert engine.post("/v1/completions", body, name("xargs")).status_code in {200, 500}
        assert tokens(engine.complete(prompt, name("afterwards"))) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote_port", "14579"),
        ("remote_block_ids", [[1, -5]]),
        ("remote_host", "evil.example"),
        ("remote_host", "169.254.169.254"),
        ("kvdirect_lease", "1:not:a:lease:1"),
        ("kvdirect_lease", None),
        ("do_remote_prefill", "yes"),
    ],
)
def test_bad_parameters_cost_a_local_prefill(
    aggregated: Engine, owner: Engine, reader: Engine, key: str, value: object
) -> None:
    """They come from clients: the error names the key, and the request is served all the same."""
    prompt, request_id = text(90), name("bad")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    params: dict[str, Any] = {
        "do_remote_prefill": True,
        "do_remote_decode": False,
        "remote_block_ids": [[1, 2, 3]],
        "remote_engine_id": "nobody",
        "remote_request_id": "nothing",
        "remote_host": "127.0.0.1",
        "remote_port": 1,
        "tp_size": 1,
        "remote_num_tokens": 90,
        "kvdirect_lease": "1:1:1:1:1",
        key: value,
    }
    before = reader.metric("vllm:kvdirect_num_failed_transfers_total", reason="bad_params")
    assert tokens(reader.complete(prompt, request_id, kv_transfer_params=params)) == expected
    assert reader.pulls(request_id) == []
    complaints = [line for line in reader.log.splitlines() if request_id in line and "is prefilled here" in line]
    assert len(complaints) == 1
    assert key in complaints[0]
    counted = lambda: reader.metric("vllm:kvdirect_num_failed_transfers_total", reason="bad_params")  # noqa: E731
    wait_until(lambda: counted() == before + 1, "the failure is counted")
    assert owner.healthy()


def test_a_dead_owner_fails_the_request_and_holds_nothing(owner: Engine, reader: Engine) -> None:
    prompt = text(200)
    params = prefill(owner, prompt, name("dead")) | {"remote_port": free_port()}
    body = completion_body(prompt, 8, kv_transfer_params=params)
    response = reader.post("/v1/completions", body, name("dead"))
    assert response.status_code == 500
    assert "nobody listens there" in reader.log
    wait_until(lambda: reader.metric("vllm:kv_cache_usage_perc") == 0, "the reader's blocks are free")
    assert len(tokens(reader.complete(prompt, name("afterwards")))) == 16


def test_a_request_aborted_while_it_waits_holds_nothing(owner: Engine, reader: Engine) -> None:
    prompt, request_id = text(300), name("aborted")
    with socket.socket() as silent:  # it listens, so that the reader waits for an answer
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        params = prefill(owner, prompt, request_id) | {"remote_port": silent.getsockname()[1]}
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(
                f"{reader.url}/v1/completions",
                json=completion_body(prompt, 8, kv_transfer_params=params),
                headers={"X-Request-Id": request_id},
                timeout=1.5,
            )
        wait_until(lambda: bool(reader.pulls(request_id)), "the worker gives it up")
    assert reader.pulls(request_id)[0]["reason"].startswith("cancelled")
    wait_until(lambda: reader.metric("vllm:kv_cache_usage_perc") == 0, "the reader's blocks are free")
    assert reader.healthy()


def test_a_completed_lease_is_not_asked_for_again(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    prompt, first, second = text(128), name("once"), name("twice")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    params = prefill(owner, prompt, first)
    assert tokens(reader.complete(prompt, first, kv_transfer_params=params)) == expected
    assert tokens(reader.complete(prompt, second, kv_transfer_params=params)) == expected
    assert reader.pulls(second) == []
