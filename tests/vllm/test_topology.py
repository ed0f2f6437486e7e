# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines of several ranks, of several engines, over IPv6, and beside another connector: the same tokens."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
    SLEEPING,
    Engine,
    Spec,
    block_bytes,
    blocks_to_move,
    completion_body,
    disaggregated,
    name,
    only_pull,
    prefill,
    text,
    tokens,
    wait_until,
)

from kvdirect.harness.processes import free_port

if TYPE_CHECKING:
    from pool import EnginePool


TWO_RANKS = (("--tensor-parallel-size", "2"),)
# Neither ranks that spin until their peer is done nor a compiler suit a machine of two cores.
FEW_CORES = (*SLEEPING, ("TORCHDYNAMO_DISABLE", "1"))
TP_OWNER = Spec("kv_producer", options=TWO_RANKS, environment=FEW_CORES)
# Over messages, which an owner that stands still does not answer.
TP_READER = Spec(
    "kv_consumer",
    extra=(("lanes", '["message"]'), ("pull_timeout", "4")),
    options=TWO_RANKS,
    environment=FEW_CORES,
)
# The two ranks of this one are two engines; each has its worker in its own process.
DP_PORT = free_port(neighbours=2)
DP_OWNER = Spec(
    "kv_producer",
    options=(("--data-parallel-size", "2"), ("--api-server-count", "1")),
    kv_port=DP_PORT,
    environment=FEW_CORES,
)
MESSAGES = ("lanes", '["message"]')
IPV6_OWNER = Spec("kv_producer", extra=(("host", '"auto"'), ("listen", '"lo/ipv6"'), MESSAGES))
IPV6_READER = Spec("kv_consumer", extra=(("host", '"::1"'), MESSAGES, ("require_lane", '"message"')))


def with_files(role: str, ours: str, others: str) -> Spec:
    """Under vLLM's MultiConnector, with a connector that writes the cache to files at the same time.

    Two of these know each other by keys, and nobody else.
    """
    keys = (("key_file", f'"FOLDER/{ours}.key"'), ("peers_file", f'"FOLDER/{others}.pub"'))
    config = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}
    files = {**config, "kv_connector_extra_config": {"shared_storage_path": f"FOLDER/{ours}"}}
    return Spec(role, extra=keys, beside=json.dumps([{}, files]))


FILES_OWNER = with_files("kv_producer", "owner", "reader")
FILES_READER = with_files("kv_consumer", "reader", "owner")

pytestmark = [pytest.mark.vllm, pytest.mark.engines(TP_OWNER, TP_READER)]


def worker_pid(engine: Engine, rank: int) -> int:
    """The process of one tensor-parallel rank, from the engine's log."""
    found = re.search(rf"Worker_TP{rank} pid=(\d+)", engine.log)
    assert found is not None
    return int(found[1])


def holds_nothing(engine: Engine) -> bool:
    return engine.metric("vllm:kv_cache_usage_perc") == 0


@pytest.mark.parametrize("length", [33, 700])
def test_each_rank_reads_its_half_from_its_own_rank(pool: EnginePool, length: int) -> None:
    owner, reader = pool.get(TP_OWNER, TP_READER)
    prompt, request_id = text(length), name("tp")
    got = tokens(disaggregated(owner, reader, prompt, request_id))
    records = sorted(reader.pulls(request_id), key=lambda record: record["rank"])
    assert [record["rank"] for record in records] == [0, 1]
    assert {record["status"] for record in records} == {"ok"}
    # The model has two KV heads, so each rank has one of them.
    assert [record["bytes"] for record in records] == [blocks_to_move(length) * block_bytes(pool) // 2] * 2
    # Other ranks add up in another order than one rank does: what to compare with has the same ranks.
    assert got == tokens(owner.complete(prompt, name("reference")))
    wait_until(lambda: holds_nothing(owner) and holds_nothing(reader), "every rank has completed")


def test_one_rank_that_fails_fails_the_request_and_the_other_completes(pool: EnginePool) -> None:
    owner, reader = pool.get(TP_OWNER, TP_READER)
    prompt, request_id = text(300), name("half")
    disaggregated(owner, reader, text(40), name("connected"))
    params = prefill(owner, prompt, request_id)
    stopped = worker_pid(owner, 1)
    os.kill(stopped, signal.SIGSTOP)
    try:
        body = completion_body(prompt, 8, kv_transfer_params=params)
        assert reader.post("/v1/completions", body, request_id).status_code == 500
    finally:
        os.kill(stopped, signal.SIGCONT)
    status = {record["rank"]: record["status"] for record in reader.pulls(request_id)}
    assert status == {0: "ok", 1: "failed"}
    wait_until(lambda: holds_nothing(owner) and holds_nothing(reader), "both ranks' leases are completed")
    assert tokens(reader.complete(prompt, name("afterwards"))) == tokens(owner.complete(prompt, name("reference")))


@pytest.mark.engines(AGGREGATED, PREFILL, TP_READER)
@pytest.mark.parametrize("length", [33, 700])
def test_two_ranks_read_from_one(pool: EnginePool, length: int) -> None:
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, TP_READER)
    prompt, request_id = text(length), name("one-two")
    got = tokens(disaggregated(owner, reader, prompt, request_id))
    records = sorted(reader.pulls(request_id), key=lambda record: record["rank"])
    assert [record["rank"] for record in records] == [0, 1]
    assert {record["status"] for record in records} == {"ok"}
    assert [record["bytes"] for record in records] == [blocks_to_move(length) * block_bytes(pool) // 2] * 2
    assert got == tokens(aggregated.complete(prompt, name("reference")))
    wait_until(lambda: holds_nothing(owner) and holds_nothing(reader), "the one rank is completed")


@pytest.mark.engines(AGGREGATED, TP_OWNER, DECODE)
@pytest.mark.parametrize("length", [33, 700])
def test_one_rank_reads_from_two(pool: EnginePool, length: int) -> None:
    aggregated, owner, reader = pool.get(AGGREGATED, TP_OWNER, DECODE)
    prompt, request_id = text(length), name("two-one")
    got = tokens(disaggregated(owner, reader, prompt, request_id))
    record = only_pull(reader, request_id)
    assert record["status"] == "ok"
    assert record["bytes"] == blocks_to_move(length) * block_bytes(pool)
    assert got == tokens(aggregated.complete(prompt, name("reference")))
    wait_until(lambda: holds_nothing(owner) and holds_nothing(reader), "both ranks are completed")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.engines(AGGREGATED, IPV6_OWNER, IPV6_READER)
@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
@pytest.mark.parametrize("brackets", [False, True], ids=["plain", "brackets"])
def test_everything_over_ipv6(pool: EnginePool, *, brackets: bool) -> None:
    aggregated, owner, reader = pool.get(AGGREGATED, IPV6_OWNER, IPV6_READER)
    prompt, request_id = text(300), name("six")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    params = prefill(owner, prompt, request_id)
    assert params["remote_host"] == "::1"
    if brackets:  # as routers that build a URL from it leave it
        params["remote_host"] = "[::1]"
    assert tokens(reader.complete(prompt, request_id, kv_transfer_params=params)) == expected
    record = only_pull(reader, request_id)
    assert (record["status"], record["lane"]) == ("ok", "message")
    assert record["owner"] == f"[::1]:{params['remote_port']}"
    assert record["bytes"] == blocks_to_move(300) * block_bytes(pool)


@pytest.mark.engines(AGGREGATED, PREFILL, DECODE)
@pytest.mark.parametrize("host", ["localhost", "LocalHost"])
def test_a_ticket_whose_host_was_replaced_by_a_name(pool: EnginePool, host: str) -> None:
    """As routers do that know engines by name; the owner said an address."""
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, DECODE)
    prompt, request_id = text(150), name("named")
    params = prefill(owner, prompt, request_id) | {"remote_host": host}
    answer = reader.complete(prompt, request_id, kv_transfer_params=params)
    assert tokens(answer) == tokens(aggregated.complete(prompt, name("reference")))
    record = only_pull(reader, request_id)
    assert (record["status"], record["owner"]) == ("ok", f"{host}:{params['remote_port']}")


@pytest.mark.engines(AGGREGATED, DP_OWNER, DECODE)
def test_data_parallel_engines_each_have_their_handshake(pool: EnginePool) -> None:
    port = DP_PORT
    aggregated, owner, reader = pool.get(AGGREGATED, DP_OWNER, DECODE)
    engine_ids = set()
    for rank in (0, 1):
        prompt, request_id = text(200), name("dp")
        body = completion_body(prompt, 1, kv_transfer_params={"do_remote_decode": True})
        headers = {"X-Request-Id": request_id, "X-data-parallel-rank": str(rank)}
        answer = httpx.post(f"{owner.url}/v1/completions", json=body, headers=headers, timeout=120.0)
        params: dict[str, Any] = answer.json()["kv_transfer_params"]
        assert params["remote_port"] == port + rank
        engine_ids.add(params["remote_engine_id"])
        got = tokens(reader.complete(prompt, request_id, kv_transfer_params=params))
        assert only_pull(reader, request_id)["bytes"] == blocks_to_move(200) * block_bytes(pool)
        assert got == tokens(aggregated.complete(prompt, name("reference")))
    assert len(engine_ids) == 2
    wait_until(lambda: holds_nothing(owner), "both engines' leases are completed")


@pytest.mark.engines(AGGREGATED, FILES_OWNER, FILES_READER)
def test_beside_another_connector(pool: EnginePool) -> None:
    """Under vLLM's MultiConnector, with one that writes the cache to files at the same time."""
    aggregated, owner, reader = pool.get(AGGREGATED, FILES_OWNER, FILES_READER)
    prompt, request_id, moved = text(300), name("multi"), "vllm:kvdirect_bytes_transferred_sum"
    before = reader.metric(moved)
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert tokens(disaggregated(owner, reader, prompt, request_id)) == expected
    record = only_pull(reader, request_id)
    assert record["status"] == "ok"
    assert record["bytes"] == blocks_to_move(300) * block_bytes(pool)
    assert any((pool.folder / "owner").rglob("*.safetensors"))
    wait_until(
        lambda: reader.metric(moved) == before + record["bytes"], "our metrics are among those of both connectors"
    )
    wait_until(lambda: holds_nothing(owner) and holds_nothing(reader), "the lease is completed")


@pytest.mark.engines(FILES_OWNER, FILES_READER, DECODE)
def test_an_engine_without_a_key_gets_nothing(pool: EnginePool) -> None:
    keyed, known, reader = pool.get(FILES_OWNER, FILES_READER, DECODE)
    prompt, request_id = text(200), name("keyless")
    params = prefill(keyed, prompt, request_id)
    body = completion_body(prompt, 8, kv_transfer_params=params)
    assert reader.post("/v1/completions", body, request_id).status_code == 500
    assert "keys differs: needed at the owner, none at the reader" in reader.log
    assert only_pull(reader, request_id)["status"] == "failed"
    assert known.post("/v1/completions", body, name("known")).status_code == 200
