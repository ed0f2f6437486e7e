# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What the scheduler half orders of another engine's prefills, inside vLLM's real scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import INCARNATION, Played, elsewhere
from vllm.v1.request import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_pull_covers_all_but_the_last_token_in_whole_blocks(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100), max_tokens=2)
    output, metadata = reader.schedule()
    assert request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    (hold,) = metadata.holds
    (order,) = metadata.pulls
    assert hold.request_id == order.request_id == request.request_id
    assert hold.owner.incarnation == INCARNATION
    assert (order.start, order.stop, order.watermark) == (0, 128, 99)
    assert len(order.local[0]) == 4
    assert request.kv_transfer_params["do_remote_prefill"] is False
    reader.answer(output, received={request.request_id})
    output, metadata = reader.schedule()
    assert output.num_scheduled_tokens == {request.request_id: 1}
    assert metadata.pulls == metadata.holds == []


def test_local_hits_are_not_pulled_and_a_full_hit_only_completes(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    before = reader.add(97, elsewhere(97), max_tokens=1)
    output, metadata = reader.schedule()
    assert metadata.pulls[0].stop == 96
    reader.answer(output, received={before.request_id})
    output, _ = reader.schedule()
    reader.answer(output)
    longer = reader.add(140, elsewhere(140))
    full = reader.add(97, elsewhere(97))
    _, metadata = reader.schedule()
    (order,) = metadata.pulls
    assert order.request_id == longer.request_id
    assert (order.start, order.stop) == (96, 160)
    assert metadata.releases == [full.request_id]


def test_an_abort_while_waiting_is_cancelled_and_blocks_wait_for_the_worker(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    output, _ = reader.schedule()
    reader.answer(output)
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    assert not reader.all_blocks_are_free
    output, metadata = reader.schedule()
    assert metadata.cancels == [request.request_id]
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    assert reader.all_blocks_are_free


@pytest.mark.parametrize("role", ["kv_producer", "kv_consumer"])
@pytest.mark.parametrize("params", ["x", ["do_remote_prefill"], 5])
def test_parameters_that_are_no_object_are_dropped(play: Callable[..., Played], role: str, params: Any) -> None:  # noqa: ANN401
    played = play(role)
    request = played.add(40, params)
    output, metadata = played.schedule()
    assert request.kv_transfer_params is None
    assert output.num_scheduled_tokens[request.request_id] == 40
    assert metadata.grants == []
    assert metadata.holds == []


def test_an_abort_before_scheduling_completes_the_lease(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    _, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == metadata.releases == [request.request_id]
    assert metadata.pulls == []


@pytest.mark.parametrize("refused", [True, False], ids=["other prompts", "aborted at once"])
def test_requests_of_one_name_that_end_in_one_step_each_leave_their_lease(
    play: Callable[..., Played], *, refused: bool
) -> None:
    reader = play("kv_consumer")
    tickets = [elsewhere(100, start=int(refused)) for _ in range(3)]
    for ticket in (*tickets, tickets[0]):  # the first lease is named twice
        request = reader.add(100, dict(ticket), name="same", abort_immediately=True)
        reader.scheduler.finish_requests([request.request_id], RequestStatus.FINISHED_ABORTED)
    _, metadata = reader.schedule()
    leases = {hold.request_id: hold.lease for hold in metadata.holds}
    assert len(leases) == 4, "the worker tells them apart"
    assert metadata.releases == list(leases)
    assert {leases[name] for name in metadata.completes} == set(leases.values())
    assert len(metadata.completes) == 3, "each lease once"
    assert not reader.scheduler.connector.has_pending_push_work()
    reader.add(100, dict(tickets[0]))
    assert reader.schedule()[1].holds == [], "it is spent"


def test_a_lease_is_spent_when_its_last_request_is_done(play: Callable[..., Played]) -> None:
    """One that comes before the worker was told to complete it still shares it."""
    reader = play("kv_consumer")
    params = elsewhere(100)
    twins = [reader.add(100, dict(params)), reader.add(100, dict(params))]
    output, metadata = reader.schedule()
    assert [order.request_id for order in metadata.pulls] == [twin.request_id for twin in twins]
    assert metadata.releases == []
    reader.answer(output, received={twin.request_id for twin in twins})
    third = reader.add(100, dict(params))
    output, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == [third.request_id]
    assert set(metadata.releases) == {twin.request_id for twin in twins}
    assert metadata.completes == []
    reader.answer(output)
    fourth = reader.add(100, dict(params))
    output, metadata = reader.schedule()
    assert [hold.request_id for hold in metadata.holds] == [fourth.request_id], "the third has not left"
    both = {third.request_id, fourth.request_id}
    reader.answer(output, received=both)
    _, metadata = reader.schedule()
    assert set(metadata.releases) == both
    assert [request_id in both for request_id in metadata.completes] == [True], "the last one, and once"
    late = reader.add(100, dict(params))
    _, metadata = reader.schedule()
    assert metadata.holds == metadata.pulls == []
    assert late.status == RequestStatus.RUNNING


def test_the_engine_steps_until_the_worker_heard_of_a_release(play: Callable[..., Played]) -> None:
    """Else the lease of an aborted request would stay with its owner until this engine has other work."""
    reader = play("kv_consumer")
    request = reader.add(100, elsewhere(100))
    output, _ = reader.schedule()
    reader.answer(output)
    reader.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    output, _ = reader.schedule()
    reader.answer(output, received={request.request_id}, failed={request.request_id})
    assert reader.all_blocks_are_free
    assert reader.scheduler.has_requests()
    output, metadata = reader.schedule()
    assert metadata.releases == [request.request_id]
    reader.answer(output)
    assert not reader.scheduler.has_requests()


@pytest.mark.parametrize(
    ("tokens", "start"), [(100, 1), (99, 0), (40, 0)], ids=["same length", "one token less", "much shorter"]
)
def test_another_prompt_is_computed_here_and_the_lease_completed(
    play: Callable[..., Played], tokens: int, start: int
) -> None:
    reader = play("kv_consumer")
    request = reader.add(tokens, elsewhere(100), start=start)
    _, metadata = reader.schedule()
    assert request.status == RequestStatus.RUNNING
    assert metadata.pulls == []
    assert [hold.request_id for hold in metadata.holds] == metadata.releases == [request.request_id]


def test_a_prompt_that_goes_on_is_pulled_as_far_as_it_was_prefilled(play: Callable[..., Played]) -> None:
    reader = play("kv_consumer")
    reader.add(150, elsewhere(100))
    (order,) = reader.schedule()[1].pulls
    assert (order.start, order.stop, order.watermark) == (0, 128, 100)


def test_a_list_of_prompts_under_one_ticket_pulls_the_first_only(play: Callable[..., Played]) -> None:
    """vLLM returns the parameters of a list's first prompt, and simple routers copy them to all."""
    reader = play("kv_consumer")
    params = elsewhere(100)
    first, second = reader.add(100, dict(params)), reader.add(100, dict(params), start=5)
    output, metadata = reader.schedule()
    assert [order.request_id for order in metadata.pulls] == [first.request_id]
    assert metadata.releases == [second.request_id]
    reader.answer(output, received={first.request_id})
    assert reader.schedule()[1].releases == [first.request_id]
