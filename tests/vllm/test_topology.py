# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Engines of several ranks, of several engines, over IPv6, and beside another connector: the same tokens."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from engines import (
    PREFILL,
    Engine,
    Spec,
    block_bytes,
    blocks_to_move,
    completion_body,
    disaggregated,
    name,
    prefill,
    text,
    tokens,
    wait_until,
)

if TYPE_CHECKING:
    from engines import EnginePool

pytestmark = pytest.mark.vllm

TWO_RANKS = (("--tensor-parallel-size", "2"),)
TP_OWNER = Spec("kv_producer", options=TWO_RANKS)
# Over messages, which an owner that stands still does not answer.
TP_READER = Spec("kv_consumer", extra=(("lanes", '["message"]'), ("pull_timeout", "4")), options=TWO_RANKS)


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


def test_unequal_tensor_parallelism_is_refused_by_name(pool: EnginePool) -> None:
    alone, reader = pool.get(PREFILL, TP_READER)
    prompt, request_id = text(100), name("unequal")
    params = prefill(alone, prompt, request_id)
    assert params["tp_size"] == 1
    reader.complete(prompt, request_id, kv_transfer_params=params)
    assert reader.pulls(request_id) == []
    [complaint] = [line for line in reader.log.splitlines() if request_id in line and "is prefilled here" in line]
    assert "tp_size: 1 at the owner, 2 here" in complaint
    # A ticket may lie: then the handshake says it.
    params |= {"tp_size": 2, "kvdirect_lease": params["kvdirect_lease"].rpartition(":")[0] + ":2"}
    body = completion_body(prompt + "!", 8, kv_transfer_params=params)
    assert reader.post("/v1/completions", body, name("unequal")).status_code == 500
    assert "tp_size differs: 1 at the owner, 2 at the reader" in reader.log
