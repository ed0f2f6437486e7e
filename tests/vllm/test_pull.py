# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two real engines, the KV cache pulled between them: the same tokens as one engine, and no byte too many."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from engines import (
    AGGREGATED,
    BATCHED_TOKENS,
    BLOCK,
    DECODE,
    HOST_LANE,
    PREFILL,
    Engine,
    block_bytes,
    blocks_to_move,
    completion_body,
    disaggregated,
    ended_leases,
    name,
    only_pull,
    prefill,
    stream,
    text,
    tokens,
    wait_until,
)

if TYPE_CHECKING:
    from pool import EnginePool

pytestmark = [pytest.mark.vllm, pytest.mark.engines(AGGREGATED, PREFILL, DECODE)]


@pytest.mark.parametrize("length", [2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 150, BATCHED_TOKENS + 1, 700, 1500])
def test_same_tokens_and_exactly_the_bytes(
    aggregated: Engine, owner: Engine, reader: Engine, pool: EnginePool, length: int
) -> None:
    prompt, request_id = text(length), name("exact")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    answer = disaggregated(owner, reader, prompt, request_id)
    assert answer["usage"]["prompt_tokens"] == length
    assert tokens(answer) == expected
    record = only_pull(reader, request_id)
    assert record["status"] == "ok"
    assert record["blocks"] == blocks_to_move(length)
    assert record["bytes"] == blocks_to_move(length) * block_bytes(pool)
    assert (record["start"], record["stop"]) == (0, blocks_to_move(length) * BLOCK)
    assert record["lane"] == HOST_LANE


def test_one_token_prompt_needs_no_pull(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    """The one token is computed by the reader; the owner gets its blocks back all the same."""
    request_id = name("one")
    before = owner.metric("vllm:kvdirect_num_ended_leases_total", reason="completed")
    expected = tokens(aggregated.complete("x", name("reference")))
    assert tokens(disaggregated(owner, reader, "x", request_id)) == expected
    assert reader.pulls(request_id) == []
    wait_until(
        lambda: owner.metric("vllm:kvdirect_num_ended_leases_total", reason="completed") > before, "the lease ends"
    )


def test_only_what_the_local_prefix_cache_lacks(
    aggregated: Engine, owner: Engine, reader: Engine, pool: EnginePool
) -> None:
    shared = text(5 * BLOCK + 7)
    first, second = shared + " and then it rained", shared + " and nobody came, for hours"
    for prompt, hits in ((first, 0), (second, 5 * BLOCK), (second, (len(second) - 1) // BLOCK * BLOCK)):
        request_id = name("shared")
        cached = reader.metric("vllm:prompt_tokens_by_source_total", source="local_cache_hit")
        external = reader.metric("vllm:prompt_tokens_by_source_total", source="external_kv_transfer")
        computed = reader.metric("vllm:prompt_tokens_by_source_total", source="local_compute")
        expected = tokens(aggregated.complete(prompt, name("reference")))
        assert tokens(disaggregated(owner, reader, prompt, request_id)) == expected
        record = only_pull(reader, request_id)
        assert record["start"] == hits
        assert record["bytes"] == blocks_to_move(len(prompt), hits) * block_bytes(pool)

        def moved(by: str, since: float) -> int:
            return int(reader.metric("vllm:prompt_tokens_by_source_total", source=by) - since)

        wait_until(lambda: moved("local_compute", computed) >= 1, "vLLM publishes its counters")  # noqa: B023
        assert moved("local_cache_hit", cached) == hits
        assert moved("external_kv_transfer", external) == len(prompt) - 1 - hits
        assert moved("local_compute", computed) == 1


def test_metrics_count_the_same_bytes(owner: Engine, reader: Engine, pool: EnginePool) -> None:
    family = "vllm:kvdirect_bytes_transferred"
    before, count = reader.metric(f"{family}_sum", lane=HOST_LANE), reader.metric(f"{family}_count", lane=HOST_LANE)
    seconds = reader.metric("vllm:kvdirect_xfer_time_seconds_sum", lane=HOST_LANE)
    lengths = (40, 333)
    for length in lengths:
        disaggregated(owner, reader, text(length), name("metrics"))
    wait_until(lambda: reader.metric(f"{family}_count", lane=HOST_LANE) == count + 2, "two pulls on /metrics")
    moved = sum(map(blocks_to_move, lengths)) * block_bytes(pool)
    assert reader.metric(f"{family}_sum", lane=HOST_LANE) - before == moved
    assert reader.metric("vllm:kvdirect_xfer_time_seconds_sum", lane=HOST_LANE) > seconds
    assert reader.metric("vllm:kvdirect_num_runs_sum", lane=HOST_LANE) > 0
    assert reader.metric("vllm:kvdirect_post_time_seconds_sum", lane=HOST_LANE) > 0


def as_doubles(value: Any) -> Any:  # noqa: ANN401  (any JSON)
    """What a router leaves that knows no integers, and that sorts keys."""
    if isinstance(value, dict):
        return {key: as_doubles(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [as_doubles(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_every_number_went_through_a_double(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    prompt, request_id = text(300), name("doubles")
    expected = tokens(aggregated.complete(prompt, name("reference")))

    def travel(params: dict[str, Any]) -> dict[str, Any]:
        travelled: dict[str, Any] = json.loads(json.dumps(as_doubles(params), sort_keys=True))
        assert isinstance(travelled["remote_port"], float)
        assert isinstance(travelled["remote_block_ids"][0][0], float)
        return travelled

    assert tokens(disaggregated(owner, reader, prompt, request_id, on_the_way=travel)) == expected
    assert only_pull(reader, request_id)["status"] == "ok"


def test_streaming(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    prompt, request_id = text(260), name("stream")
    expected = tokens(aggregated.complete(prompt, name("reference"), max_tokens=400))
    params = prefill(owner, prompt, request_id)
    chunks = list(stream(reader, completion_body(prompt, 400, kv_transfer_params=params), request_id))
    got = [token for chunk in chunks for choice in chunk["choices"] for token in choice.get("token_ids") or []]
    assert len(chunks) > 1  # how many tokens a chunk has depends on how busy the machine is
    assert got == expected
    assert only_pull(reader, request_id)["status"] == "ok"


def test_several_in_flight(aggregated: Engine, owner: Engine, reader: Engine) -> None:
    prompts = [text(length) for length in (33, 64, 100, 250, 400, 650)]
    expected = [tokens(aggregated.complete(prompt, name("reference"))) for prompt in prompts]
    names = [name("many") for _ in prompts]

    def run(prompt: str, request_id: str) -> list[int]:
        return tokens(disaggregated(owner, reader, prompt, request_id))

    with ThreadPoolExecutor(len(prompts)) as threads:
        got = list(threads.map(run, prompts, names))
    assert got == expected
    assert [only_pull(reader, request_id)["status"] for request_id in names] == ["ok"] * len(names)


def test_several_samples_share_one_lease(owner: Engine, reader: Engine, aggregated: Engine) -> None:
    """n=2 makes two requests of one set of parameters; neither may take the lease away from the other."""
    prompt, request_id = text(200), name("samples")
    expected = tokens(aggregated.complete(prompt, name("reference")))
    held = owner.metric("vllm:kv_cache_usage_perc")
    params = prefill(owner, prompt, request_id)
    # vLLM wants a temperature for n > 1; with one candidate left it is as good as greedy.
    body = completion_body(prompt, 16, n=2, top_k=1, kv_transfer_params=params) | {"temperature": 1.0}
    answer = reader.post("/v1/completions", body, request_id).json()
    assert [choice["token_ids"] for choice in answer["choices"]] == [expected, expected]
    assert {record["status"] for record in reader.pulls(request_id)} == {"ok"}
    wait_until(lambda: owner.metric("vllm:kv_cache_usage_perc") <= held, "the owner gets its blocks back")


def test_chat(owner: Engine, reader: Engine, aggregated: Engine) -> None:
    body: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": text(220)}],
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    request_id = name("chat")
    path = "/v1/chat/completions"
    expected = aggregated.post(path, body, name("reference")).json()
    asked = {**body, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False}}
    params = owner.post(path, asked, request_id).json()["kv_transfer_params"]
    answer = reader.post(path, {**body, "kv_transfer_params": params}, request_id).json()
    assert tokens(answer) == tokens(expected)
    assert only_pull(reader, request_id)["status"] == "ok"


def test_blocks_come_back_after_complete(owner: Engine, reader: Engine) -> None:
    """What other tests left under a lease may run out meanwhile, but never comes on top."""
    prompt, request_id = text(900), name("freed")
    held = owner.metric("vllm:kv_cache_usage_perc")
    params = prefill(owner, prompt, request_id)
    wait_until(lambda: owner.metric("vllm:kv_cache_usage_perc") > held, "the owner holds the blocks")
    completed = ended_leases(owner, "completed")
    reader.complete(prompt, request_id, kv_transfer_params=params)
    wait_until(lambda: owner.metric("vllm:kv_cache_usage_perc") <= held, "the owner gets its blocks back")
    wait_until(lambda: ended_leases(owner, "completed") == completed + 1, "the lease was completed once")
    wait_until(lambda: reader.metric("vllm:kv_cache_usage_perc") == 0, "the reader's blocks are free")
