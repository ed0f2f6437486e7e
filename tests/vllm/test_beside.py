# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One engine under vLLM's MultiConnector: its offloading connector, one of ours that reads, and one that lends."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engines import (
    AGGREGATED,
    DECODE,
    ONE_PROCESS,
    PREFILL,
    Engine,
    Spec,
    block_bytes,
    blocks_to_move,
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

if TYPE_CHECKING:
    from pool import EnginePool

TIER = {
    "kv_connector": "OffloadingConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {
        "spec_name": "HostTier",
        "spec_module_path": "host_tier",
        "cpu_bytes_to_use": 64 << 20,
    },
}
THREE = Spec(
    "kv_both",
    beside=json.dumps([TIER, {"kv_role": "kv_consumer"}, {"kv_role": "kv_producer"}]),
    environment=(
        *ONE_PROCESS,
        ("PYTHONPATH", str(Path(__file__).parent / "host_tier")),
        ("VLLM_SERVER_DEV_MODE", "1"),  # for /reset_prefix_cache
    ),
)

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, THREE, DECODE)]


@pytest.fixture
def three(pool: EnginePool) -> Engine:
    return pool.get(THREE)[0]


def forget_all_but_the_tier(engine: Engine) -> None:
    wait_until_idle(engine)
    assert engine.post("/reset_prefix_cache", {}, name("reset")).status_code == 200


def test_one_that_lends_behind_one_that_reads(pool: EnginePool, three: Engine) -> None:
    """Tickets name the engine of the one that lends, though vLLM shows both of them the first one's."""
    aggregated, reader = pool.get(AGGREGATED, DECODE)
    prompt, request_id = text(450), name("lends")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    completed = ended_leases(three, "completed")
    assert tokens(disaggregated(three, reader, prompt, request_id)) == expected
    record = only_pull(reader, request_id)
    assert (record["status"], record["bytes"]) == ("ok", blocks_to_move(450) * block_bytes(pool))
    wait_until_ended(three, "completed", completed + 1)


def test_one_that_reads_before_one_that_lends(pool: EnginePool, three: Engine) -> None:
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    prompt, request_id = text(420), name("reads")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    completed = ended_leases(owner, "completed")
    assert tokens(disaggregated(owner, three, prompt, request_id)) == expected
    record = only_pull(three, request_id)
    assert (record["status"], record["bytes"]) == ("ok", blocks_to_move(420) * block_bytes(pool))
    wait_until_ended(owner, "completed", completed + 1)
    wait_until_idle(three)


def test_what_came_back_from_the_tier_is_lent(pool: EnginePool, three: Engine) -> None:
    """The blocks of a lease may have been loaded and not computed; the reader sees what was computed once."""
    aggregated, reader = pool.get(AGGREGATED, DECODE)
    prompt = text(430)
    expected = tokens(aggregated.complete(prompt, name("reference")))
    assert tokens(three.complete(prompt, name("first"))) == expected
    forget_all_but_the_tier(three)
    hits = three.metric("vllm:external_prefix_cache_hits_total")
    request_id = name("loaded")
    params = prefill(three, prompt, request_id)
    loaded = three.metric("vllm:external_prefix_cache_hits_total") - hits
    assert loaded >= 384, "the prompt came from the tier"
    assert tokens(reader.complete(prompt, request_id, kv_transfer_params=params)) == expected
    assert only_pull(reader, request_id)["bytes"] == blocks_to_move(430) * block_bytes(pool)
    wait_until_idle(three)


def test_what_the_tier_has_is_not_pulled(pool: EnginePool, three: Engine) -> None:
    """The first connector that has a prompt loads it; the lease is completed all the same."""
    aggregated, owner = pool.get(AGGREGATED, PREFILL)
    prompt, request_id = text(410), name("both")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    three.complete(prompt, name("first"))
    forget_all_but_the_tier(three)
    completed = ended_leases(owner, "completed")
    assert tokens(disaggregated(owner, three, prompt, request_id)) == expected
    assert three.pulls(request_id) == []
    wait_until_ended(owner, "completed", completed + 1)
    wait_until_idle(three)


def test_many_at_once_of_all_three(pool: EnginePool, three: Engine) -> None:
    """What is read, what is lent, and what comes back from the tier, more than run at a time; nothing is left."""
    aggregated, owner, reader = pool.get(AGGREGATED, PREFILL, DECODE)
    prompts = [text(length) for length in (400, 90, 250, 33, 700, 150)]
    expected = [tokens(aggregated.complete(prompt, name("reference"))) for prompt in prompts]
    pairs = [(three, reader), (owner, three)]

    def run(number: int) -> list[int]:
        place, which = divmod(number, len(prompts))
        return tokens(disaggregated(*pairs[place % 2], prompts[which], name("many")))

    for _ in range(2):
        with ThreadPoolExecutor(12) as threads:
            assert list(threads.map(run, range(4 * len(prompts)))) == expected * 4
        for engine in (three, reader, owner):
            wait_until_idle(engine)
        forget_all_but_the_tier(three)


def test_metrics_of_all_three(pool: EnginePool, three: Engine) -> None:
    owner, reader = pool.get(PREFILL, DECODE)
    prompt = text(300)
    disaggregated(owner, three, prompt, name("reads"))
    disaggregated(three, reader, text(300), name("lends"))
    wait_until(lambda: three.metric("vllm:kvdirect_bytes_transferred_sum") > 0, "what was read is counted")
    wait_until(lambda: three.metric("vllm:kvdirect_num_granted_leases_total") > 0, "what was lent is counted")
