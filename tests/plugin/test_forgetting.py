# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Caches that forget, inside vLLM's real scheduler: what is prefilled, what is lent and when, what is pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

import torch
from played_scheduler import BLOCK, FULL, Played, elsewhere, prompt_tokens
from vllm.sampling_params import SamplingParams
from vllm.v1.kv_cache_interface import ChunkedLocalAttentionSpec, MambaSpec, SlidingWindowSpec
from vllm.v1.request import Request, RequestStatus

from kvdirect.scheduler.last_token import is_shortened, leave_out_last_token
from kvdirect.transfer_params import RemoteLease, prompt_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvdirect.metadata import StepMetadata

DECODE = {"do_remote_decode": True, "do_remote_prefill": False}
WIDTH, CHUNK = 64, 64
ROW = {"block_size": BLOCK, "num_kv_heads": 2, "head_size": 64, "dtype": torch.float32}
WINDOW = SlidingWindowSpec(sliding_window=WIDTH, **ROW)
CHUNKED = ChunkedLocalAttentionSpec(attention_chunk_size=CHUNK, **ROW)
STATE = MambaSpec(block_size=1024, shapes=((4,),), dtypes=(torch.float32,), page_size_padded=FULL.page_size_bytes)
KINDS = {"window": (WINDOW, FULL), "chunk": (CHUNKED, FULL), "state": (STATE, FULL)}


def prefill(owner: Played, request: Request) -> tuple[dict[str, Any], list[StepMetadata]]:
    """Until the request has finished, and one step more: its ticket, and what the worker was told in each step."""
    params, told = None, []
    while params is None:
        output, metadata = owner.schedule()
        told.append(metadata)
        params = owner.answer(output).get(request.request_id)
    told.append(owner.schedule()[1])
    return params, told


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_but_its_last_token_is_prefilled_and_lent(play: Callable[..., Played], kind: str) -> None:
    owner = play("kv_producer", specs=KINDS[kind])
    request = owner.add(130, dict(DECODE), max_tokens=5)
    params, _ = prefill(owner, request)
    assert request.num_computed_tokens == params["remote_num_tokens"] == 129
    assert len(request.output_token_ids) == 1
    epoch = RemoteLease.decode(params["kvdirect_lease"]).epoch
    assert params["kvdirect_prompt"] == prompt_digest(prompt_tokens(129), epoch)


@pytest.mark.parametrize(("kind", "kept"), [("window", 3), ("chunk", 1), ("state", 1)])
def test_what_forgets_is_lent_when_its_request_has_finished(play: Callable[..., Played], kind: str, kept: int) -> None:
    """Its blocks change hands before; and a reader waits for the last position until all of it is lent."""
    owner = play("kv_producer", specs=KINDS[kind])
    request = owner.add(130, dict(DECODE))
    params, told = prefill(owner, request)
    grants = [grant for metadata in told for grant in metadata.grants]
    assert [grant.tables[0] for grant in grants] == [[]] * len(grants)
    assert [grant.watermark for grant in grants] == [64, 128, 128]
    assert [block for grant in grants for block in grant.tables[1]] == params["remote_block_ids"][1]
    assert [metadata.settled for metadata in told[:-1]] == [[]] * len(grants)
    [late] = told[-1].settled
    assert late.tables == (params["remote_block_ids"][0], [])
    assert late.watermark == 129
    assert told[-1].finished == [(request.request_id, late.lease)]
    assert len([block for block in late.tables[0] if block]) == kept


def test_a_window_at_a_block_boundary_keeps_what_the_last_token_needs(play: Callable[..., Played]) -> None:
    """The position that N - 1 attends to first is in a block that is freed when N is reached."""
    owner = play("kv_producer", specs=KINDS["window"])
    tokens = WIDTH - 1 + 3 * BLOCK
    params, _ = prefill(owner, owner.add(tokens, dict(DECODE)))
    first = (tokens - WIDTH) // BLOCK
    assert [bool(block) for block in params["remote_block_ids"][0]] == [i >= first for i in range(-(-tokens // BLOCK))]


def test_a_preempted_prefill_is_lent_under_its_new_epoch(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", specs=KINDS["window"])
    request = owner.add(100, dict(DECODE))
    output, metadata = owner.schedule()
    (old,) = metadata.grants
    owner.answer(output)
    owner.scheduler.reset_prefix_cache(reset_running_requests=True)
    params, told = prefill(owner, request)
    assert told[0].revokes == [old.lease]
    [late] = told[-1].settled
    assert late.lease[1] == RemoteLease.decode(params["kvdirect_lease"]).epoch != old.lease[1]
    assert params["remote_num_tokens"] == 99, "one token is left out once"


def test_an_aborted_prefill_lends_nothing(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", specs=KINDS["window"])
    request = owner.add(200, dict(DECODE))
    output, metadata = owner.schedule()
    owner.answer(output)
    owner.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    _, after = owner.schedule()
    assert after.revokes == [metadata.grants[0].lease]
    assert after.settled == []
    assert owner.all_blocks_are_free


def test_one_token_is_prefilled_whole(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", specs=KINDS["state"])
    params, told = prefill(owner, owner.add(1, dict(DECODE)))
    assert params["remote_num_tokens"] == 1
    assert [grant.watermark for metadata in told for grant in (*metadata.grants, *metadata.settled)] == [0, 1]


def test_a_cache_that_forgets_nothing_is_prefilled_whole(play: Callable[..., Played]) -> None:
    owner = play("kv_producer")
    params, told = prefill(owner, owner.add(100, dict(DECODE)))
    assert params["remote_num_tokens"] == 100
    assert told[-1].settled == []


def request_of(tokens: list[int], **sampling: Any) -> Request:  # noqa: ANN401
    return Request("r", tokens, SamplingParams(max_tokens=5, **sampling), None, block_hasher=None)


def test_leaving_out_a_token_does_not_touch_what_the_client_is_told() -> None:
    tokens = prompt_tokens(50)
    request = request_of(tokens)
    for _ in range(2):  # two connectors of one engine
        leave_out_last_token(request)
    assert is_shortened(request)
    assert (request.num_prompt_tokens, request.num_tokens, request.max_tokens) == (49, 49, 1)
    assert list(request.all_token_ids) == request.prompt_token_ids == tokens[:49]
    assert len(tokens) == 50


@pytest.mark.parametrize("request_", [request_of([5]), request_of([5] * 9, prompt_logprobs=1)], ids=["one", "logprobs"])
def test_a_prompt_that_is_wanted_whole_stays_whole(request_: Request) -> None:
    tokens = request_.num_tokens
    leave_out_last_token(request_)
    assert not is_shortened(request_)
    assert request_.num_tokens == request_.num_prompt_tokens == tokens


def test_parameters_that_changed_after_the_request_was_made_count() -> None:
    request = request_of([5] * 9)
    assert request.sampling_params is not None
    request.sampling_params.skip_reading_prefix_cache = True
    leave_out_last_token(request)
    assert request.num_prompt_tokens == 9


def test_hashes_of_blocks_are_those_of_the_shorter_prompt(play: Callable[..., Played]) -> None:
    owner = play("kv_producer", specs=KINDS["window"])
    whole, other = owner.add(64, dict(DECODE)), owner.add(63, None)
    assert whole.block_hashes == other.block_hashes
    assert len(whole.block_hashes) == 1


def test_a_prefill_of_the_whole_prompt_is_not_used(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=KINDS["window"])
    blocks = [[0, 2, 3, 4], [5, 6, 7, 8]]
    usable = reader.add(101, elsewhere(100, remote_block_ids=blocks), max_tokens=2)
    whole = reader.add(100, elsewhere(100, remote_block_ids=blocks), max_tokens=2)
    output, metadata = reader.schedule()
    assert [order.request_id for order in metadata.pulls] == [usable.request_id]
    assert whole.request_id in output.num_scheduled_tokens
    assert metadata.releases == [whole.request_id]


def test_what_is_pulled_of_a_window(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=KINDS["window"])
    reader.add(200, elsewhere(199, remote_block_ids=[[0] * 4 + [2, 3, 4], [*range(5, 12)]]), max_tokens=2)
    (order,) = reader.schedule()[1].pulls
    assert (order.start, order.stop, order.watermark) == (0, 224, 199)
    window, full = order.local
    assert [bool(block) for block in window] == [False] * 4 + [True] * 3
    assert all(full)


def test_what_is_pulled_of_a_state(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer", specs=KINDS["state"])
    reader.add(200, elsewhere(199, remote_block_ids=[[9], [*range(1, 8)]]), max_tokens=2)
    (order,) = reader.schedule()[1].pulls
    assert (order.start, order.stop) == (0, 224)
    assert [len(table) for table in order.local] == [1, 7]
    assert order.remote == ((9,), tuple(range(1, 8)))
