# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Requests of models with several kinds of cache, from their arrival to their last block, in vLLM's real scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from played_scheduler import FULL, Played, elsewhere, prompt_tokens
from test_forgetting import DECODE, KINDS, WINDOW, prefill
from vllm.config import DeviceConfig, KVTransferConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from kvdirect import plugin
from kvdirect.scheduler.last_token import leave_out_last_token

if TYPE_CHECKING:
    from collections.abc import Callable

# What each kind's owner has of 129 positions: nulls where it forgot, and a state's only block.
LENT = {
    "window": [[0, 0, 2, 3, 4], [5, 6, 7, 8, 9]],
    "chunk": [[0, 0, 0, 0, 4], [5, 6, 7, 8, 9]],
    "state": [[4], [5, 6, 7, 8, 9]],
}


def ticket(kind: str, start: int = 0) -> dict[str, Any]:
    return elsewhere(129, start, remote_block_ids=LENT[kind])


def finish(played: Played, *requests: Request) -> None:
    """Steps until these requests have their last tokens."""
    for _ in range(40):
        if all(request.is_finished() for request in requests):
            return
        played.answer(played.schedule()[0])
    raise AssertionError([request.status.name for request in requests])


def hashed(played: Played) -> int:
    """Blocks that later prompts can find."""
    return len(played.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another of ours"])
def test_vllm_keeps_its_groups_apart_with_this_connector(beside: bool) -> None:
    """It makes one group of all where a connector does not say that it takes several."""
    plugin.register()
    name, extra = "kvdirect", {}
    if beside:
        parts = [{"kv_connector": "kvdirect", "kv_role": role} for role in ("kv_consumer", "kv_producer")]
        name, extra = "MultiConnector", {"connectors": parts}
    transfer = KVTransferConfig(kv_connector=name, kv_role="kv_both", kv_connector_extra_config=extra)
    config = VllmConfig(device_config=DeviceConfig("cpu"), kv_transfer_config=transfer)
    assert config.scheduler_config.disable_hybrid_kv_cache_manager is False


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_every_group_stay_until_the_worker_says_sent(play: Callable[..., Played], kind: str) -> None:
    owner = play("kv_producer", specs=KINDS[kind])
    request = owner.add(130, dict(DECODE))
    params, told = prefill(owner, request)
    owner.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    tables = owner.scheduler.kv_cache_manager.get_block_ids(request.request_id)
    lent = [block for table in params["remote_block_ids"] for block in table if block]
    assert set(lent) <= {block for table in tables for block in table}
    assert len(set(lent)) == len(lent), "two groups never share a block"
    output, _ = owner.schedule()
    owner.answer(output, sent={request.request_id}, ended=[told[-1].finished[0][1]])
    assert owner.all_blocks_are_free


@pytest.mark.parametrize("kind", ["window", "chunk"])
def test_what_the_owner_had_of_a_prompt_is_lent_too(play: Callable[..., Played], kind: str) -> None:
    owner = play("kv_producer", specs=KINDS[kind])
    first, _ = prefill(owner, owner.add(130, dict(DECODE)))
    second = owner.add(130, dict(DECODE))
    params, told = prefill(owner, second)
    assert params["remote_prefill_cached_tokens"] >= 96, "the client hears of hits there, not of the reader's"
    assert params["remote_block_ids"][1][:3] == first["remote_block_ids"][1][:3]
    granted = [block for metadata in told for grant in metadata.grants for block in grant.tables[1]]
    assert granted == params["remote_block_ids"][1]
    assert [bool(block) for block in params["remote_block_ids"][0]] == list(map(bool, first["remote_block_ids"][0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_arrives_is_computed_from_its_last_token(play: Callable[..., Played], kind: str) -> None:
    reader = play("kv_consumer", specs=KINDS[kind])
    request, other = reader.add(130, ticket(kind), max_tokens=3), reader.add(40, None, start=9, max_tokens=8)
    output, metadata = reader.schedule()
    assert [pull.request_id for pull in metadata.pulls] == [request.request_id]
    assert list(output.num_scheduled_tokens) == [other.request_id]
    assert request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    assert request.num_computed_tokens == 129
    reader.answer(output, received={request.request_id})
    output, metadata = reader.schedule()
    assert output.num_scheduled_tokens[request.request_id] == 1
    assert metadata.releases == metadata.completes == [request.request_id]
    reader.answer(output)
    finish(reader, request, other)
    reader.schedule()
    assert reader.all_blocks_are_free


@pytest.mark.parametrize("kind", ["window", "chunk"])
def test_what_has_not_landed_is_nobodys_prefix(play: Callable[..., Played], kind: str) -> None:
    reader = play("kv_consumer", specs=KINDS[kind], policy="recompute")
    request = reader.add(130, ticket(kind), max_tokens=2)
    output, _ = reader.schedule()
    reader.answer(output)
    assert hashed(reader) == 0
    twin = reader.add(130, None, max_tokens=2)
    output, _ = reader.schedule()
    assert output.num_scheduled_tokens[twin.request_id] == 64, "from its first token"
    before = hashed(reader)
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    assert hashed(reader) == before
    output, _ = reader.schedule()
    assert request.num_computed_tokens <= 129
    finish(reader, request, twin)


@pytest.mark.parametrize("policy", ["fail", "recompute"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_is_one_requests_and_leaves_nothing(
    play: Callable[..., Played], kind: str, policy: Literal["fail", "recompute"]
) -> None:
    """By request: of several groups, vLLM takes no block ids."""
    reader = play("kv_consumer", specs=KINDS[kind], policy=policy)
    request, other = reader.add(130, ticket(kind), max_tokens=2), reader.add(40, None, start=9, max_tokens=6)
    output, _ = reader.schedule()
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    output, metadata = reader.schedule()
    assert metadata.completes == [request.request_id]
    assert metadata.pulls == []
    if policy == "fail":
        assert request.status == RequestStatus.FINISHED_ERROR
        assert request.request_id not in output.num_scheduled_tokens
    else:
        assert output.num_scheduled_tokens[request.request_id] >= 60, "its prompt, from the first token"
    reader.answer(output)
    finish(reader, request, other)
    assert other.status == RequestStatus.FINISHED_LENGTH_CAPPED
    assert reader.schedule()[1].pulls == []
    assert reader.all_blocks_are_free


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_preempted_after_a_pull_computes_its_prompt_and_does_not_pull_again(
    play: Callable[..., Played], kind: str
) -> None:
    reader = play("kv_consumer", specs=KINDS[kind])
    request = reader.add(130, ticket(kind), max_tokens=3)
    output, _ = reader.schedule()
    reader.answer(output, received={request.request_id})
    reader.answer(reader.schedule()[0])
    reader.scheduler.reset_prefix_cache(reset_running_requests=True)
    output, metadata = reader.schedule()
    assert metadata.pulls == metadata.holds == []
    assert output.num_scheduled_tokens[request.request_id] == 64
    reader.answer(output)
    finish(reader, request)
    reader.schedule()
    assert reader.all_blocks_are_free


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("landed", [False, True], ids=["on its way", "landed"])
def test_an_abort_frees_every_group_when_nothing_can_land(play: Callable[..., Played], kind: str, landed: bool) -> None:
    reader = play("kv_consumer", specs=KINDS[kind])
    request = reader.add(130, ticket(kind), max_tokens=2)
    output, _ = reader.schedule()
    reader.answer(output, received={request.request_id} if landed else None)
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    output, metadata = reader.schedule()
    if not landed:
        assert not reader.all_blocks_are_free
        assert metadata.cancels == [request.request_id]
        reader.answer(output, received={request.request_id}, failed={request.request_id})
        output, metadata = reader.schedule()
    assert metadata.completes == [request.request_id]
    assert reader.all_blocks_are_free


def test_a_pull_waits_for_room_in_every_group(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=KINDS["window"], blocks=13)
    first = reader.add(130, ticket("window"), max_tokens=2)
    output, _ = reader.schedule()
    second = reader.add(130, ticket("window", start=5), max_tokens=2, start=5)
    reader.answer(output)
    output, metadata = reader.schedule()
    assert metadata.pulls == []
    assert second.status == RequestStatus.WAITING
    reader.answer(output, received={first.request_id})
    finish(reader, first)
    output, metadata = reader.schedule()
    assert [pull.request_id for pull in metadata.pulls] == [second.request_id]


def test_a_group_that_stays_at_home_is_not_in_the_ticket(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", specs=(WINDOW, FULL), stays=(0,))
    request = owner.add(130, dict(DECODE))
    params, told = prefill(owner, request)
    tables = owner.scheduler.kv_cache_manager.get_block_ids(request.request_id)
    assert params["remote_block_ids"] == [tables[1]]
    assert [block for metadata in told for grant in metadata.grants for block in grant.tables[0]] == tables[1]
    reader = play("kv_consumer", specs=(WINDOW, FULL), stays=(0,))
    request = reader.add(130, params, max_tokens=2)
    (order,) = reader.schedule()[1].pulls
    assert order.local == (reader.scheduler.kv_cache_manager.get_block_ids(request.request_id)[1],)


def test_a_prompt_of_embeddings_leaves_out_its_last_one() -> None:
    embeds = torch.rand(9, 16)
    request = Request("r", None, SamplingParams(max_tokens=5), None, prompt_embeds=embeds, block_hasher=None)
    leave_out_last_token(request)
    assert request.num_prompt_tokens == request.num_tokens == 8
    assert request.prompt_embeds is not None
    assert torch.equal(request.prompt_embeds, embeds[:8])


def test_a_lookup_changes_nothing_of_a_prefill(play: Callable[..., Played]) -> None:
    """vLLM has counted its local hits by then."""
    owner = play("kv_producer", specs=KINDS["state"])
    request = owner.add(50, dict(DECODE))
    assert request.num_prompt_tokens == 49
    for _ in range(2):
        assert owner.scheduler.connector.get_num_new_matched_tokens(request, 0) == (0, False)
    assert request.prompt_token_ids == prompt_tokens(50)[:49]
