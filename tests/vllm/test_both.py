# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""An engine started by flag that does both: reads from a prefill engine, and lends to a decode engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    PREFILL,
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

if TYPE_CHECKING:
    from pool import EnginePool

BOTH = Spec(
    "kv_both",
    extra=(("lease_first_term", "8"), ("handshake_timeout", "10"), ("lanes", '["message"]')),
    by_flag=True,
    policy="recompute",
)

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, BOTH, DECODE)]


@pytest.fixture
def both(pool: EnginePool) -> Engine:
    return pool.get(BOTH)[0]


def test_reads_from_a_producer(pool: EnginePool) -> None:
    aggregated, owner, both = pool.get(AGGREGATED, PREFILL, BOTH)
    prompt, request_id = text(500), name("reads")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert tokens(disaggregated(owner, both, prompt, request_id)) == expected
    record = only_pull(both, request_id)
    assert record["bytes"] == blocks_to_move(500) * block_bytes(pool)
    assert record["lane"] == "message"


def test_lends_to_a_consumer(pool: EnginePool) -> None:
    aggregated, both, reader = pool.get(AGGREGATED, BOTH, DECODE)
    prompt, request_id = text(450), name("lends")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert tokens(disaggregated(both, reader, prompt, request_id)) == expected
    assert only_pull(reader, request_id)["bytes"] == blocks_to_move(450) * block_bytes(pool)


def test_recompute_policy_hides_a_dead_owner(pool: EnginePool) -> None:
    aggregated, owner, both = pool.get(AGGREGATED, PREFILL, BOTH)
    prompt, request_id = text(210), name("recompute")
    params = prefill(owner, prompt, request_id) | {"remote_port": 1}
    expected = tokens(aggregated.complete(prompt, name("reference")))
    answer = both.post("/v1/completions", completion_body(prompt, 16, kv_transfer_params=params), request_id)
    assert answer.status_code == 200, answer.text
    assert tokens(answer.json()) == expected
    assert only_pull(both, request_id)["status"] == "failed"


def test_a_lease_that_nobody_wants_runs_out(pool: EnginePool) -> None:
    """The blocks come back, the reader that comes too late gets an error and no stranger's cache."""
    both, reader = pool.get(BOTH, DECODE)
    prompt, request_id = text(400), name("late")
    before = both.metric("vllm:kvdirect_num_kv_expired_reqs_total")
    params = prefill(both, prompt, request_id)
    wait_until(lambda: both.metric("vllm:kv_cache_usage_perc") > 0, "vLLM says that the blocks are held")
    wait_until(lambda: both.metric("vllm:kvdirect_num_kv_expired_reqs_total") > before, "the lease runs out")
    wait_until(lambda: both.metric("vllm:kv_cache_usage_perc") == 0, "the blocks come back")
    response = reader.post("/v1/completions", completion_body(prompt, 8, kv_transfer_params=params), request_id)
    assert response.status_code == 500
    record = only_pull(reader, request_id)
    assert record["status"] == "failed"
    assert record["reason"].startswith("LeaseExpired")
