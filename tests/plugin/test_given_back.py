# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Tickets that come back to their owner, and what is kept while vLLM pauses, inside vLLM's real scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import INCARNATION, Played, elsewhere
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from kvdirect.transfer_params import RemoteLease

if TYPE_CHECKING:
    from collections.abc import Callable

CLAIM = "0123456789abcdef" * 2
ASKED = {"do_remote_decode": True, "do_remote_prefill": False, "kvdirect_claim": CLAIM}


@pytest.fixture
def owner(play: Callable[..., Played]) -> Played:
    return play("kv_producer")


def kept(owner: Played, start: int = 0) -> tuple[str, dict[str, Any]]:
    """A prefill that has ended: its request's id, and its ticket."""
    request = owner.add(40, dict(ASKED), start=start)
    output, _ = owner.schedule()
    params = owner.answer(output)[request.request_id]
    assert params is not None
    owner.answer(owner.schedule()[0])
    return request.request_id, params


def give_back(owner: Played, params: dict[str, Any]) -> None:
    """What vLLM's core does with a request that the API server has refused (`abort_immediately`)."""
    request = owner.add(1, dict(params), abort_immediately=True)
    owner.scheduler.finish_requests([request.request_id], RequestStatus.FINISHED_ABORTED)
    assert request.request_id not in owner.scheduler.requests


def lease_of(params: dict[str, Any]) -> tuple[int, int]:
    lease = RemoteLease.decode(params["kvdirect_lease"])
    return lease.slot, lease.epoch


def counted(owner: Played) -> dict[str, int]:
    stats = owner.scheduler.connector.get_kv_connector_stats()
    return {} if stats is None else stats.data["returns"]


@pytest.mark.parametrize("by", ["ticket", "claim"])
def test_a_ticket_that_comes_back_frees_its_cache_and_no_other(owner: Played, by: str) -> None:
    request_id, params = kept(owner)
    other = owner.add(40, {**ASKED, "kvdirect_claim": CLAIM[::-1]}, start=3)
    output, _ = owner.schedule()
    assert owner.answer(output)[other.request_id] is not None
    give_back(owner, params if by == "ticket" else {"do_remote_prefill": True, "kvdirect_claim": CLAIM})
    assert counted(owner) == {"freed": 1}
    assert owner.scheduler.connector.has_pending_push_work(), "an engine without requests must step for it"
    output, metadata = owner.schedule()
    assert metadata.revokes == [lease_of(params)]
    owner.answer(output, sent={request_id}, ended=[lease_of(params)])
    assert request_id not in owner.scheduler.requests
    assert other.request_id in owner.scheduler.requests
    assert not owner.scheduler.connector.has_pending_push_work()


def test_what_runs_under_a_claim_that_comes_back_gets_no_ticket(owner: Played) -> None:
    request = owner.add(100, dict(ASKED))
    output, metadata = owner.schedule()
    (grant,) = metadata.grants
    owner.answer(output)
    give_back(owner, {"do_remote_prefill": True, "kvdirect_claim": CLAIM})
    output, metadata = owner.schedule()
    assert metadata.revokes == [grant.lease]
    assert owner.answer(output, ended=[grant.lease])[request.request_id] is None
    assert owner.all_blocks_are_free


def test_twice_late_and_forged_ones_free_nothing_and_are_counted(owner: Played) -> None:
    owner.add(40, {"do_remote_decode": True}, start=5)  # under no claim
    owner.answer(owner.schedule()[0])
    request_id, params = kept(owner)
    true = RemoteLease.decode(params["kvdirect_lease"])
    for wrong in (replace(true, epoch=true.epoch ^ 1), replace(true, slot=true.slot + 1)):
        give_back(owner, {**params, "kvdirect_lease": wrong.encode()})
    for nonsense in ("x", 7, None):
        give_back(owner, {**params, "kvdirect_lease": nonsense})
    for claim in (CLAIM[::-1], "", None, [CLAIM], CLAIM.upper()):
        give_back(owner, {"do_remote_prefill": True, "kvdirect_claim": claim})
    assert owner.schedule()[1].revokes == []
    assert counted(owner) == {"unknown": 10}
    give_back(owner, params)
    give_back(owner, params)
    assert counted(owner) == {"freed": 1, "unknown": 1}
    output, metadata = owner.schedule()
    assert metadata.revokes == [lease_of(params)]
    owner.answer(output)
    give_back(owner, params)  # the worker was told, and has not answered yet
    assert counted(owner) == {"unknown": 1}
    output, metadata = owner.schedule()
    assert metadata.revokes == []
    owner.answer(output, sent={request_id}, ended=[lease_of(params)])
    give_back(owner, params)
    assert owner.schedule()[1].revokes == []
    assert counted(owner) == {"unknown": 1}


def test_only_a_refused_request_gives_back(owner: Played) -> None:
    """A client that sends its ticket to the wrong engine ends nothing."""
    _, params = kept(owner)
    owner.add(40, dict(params))
    assert owner.schedule()[1].revokes == []


def test_a_ticket_of_another_engine_is_completed_there(play: Callable[..., Played]) -> None:
    both = play("kv_both")
    params = elsewhere(40, kvdirect_lease=RemoteLease(INCARNATION + 1, 1, 5, 1).encode())
    give_back(both, params)
    metadata = both.schedule()[1]
    assert [hold.lease for hold in metadata.holds] == [(1, 5)]
    assert len(metadata.completes) == 1
    assert counted(both) == {}


def test_a_pause_that_keeps_requests_does_not_wait_for_readers(owner: Played) -> None:
    request_id, params = kept(owner)
    scheduler = owner.scheduler
    assert scheduler.has_requests(), "the end of its lease must be noticed"
    scheduler.set_pause_state(PauseState.PAUSED_ALL)
    assert not scheduler.has_requests()
    assert owner.schedule()[1].revokes == [], "a pause that clears nothing lets readers go on"
    scheduler.set_pause_state(PauseState.UNPAUSED)
    assert scheduler.has_requests()
    owner.answer(owner.schedule()[0], sent={request_id}, ended=[lease_of(params)])
    assert owner.all_blocks_are_free


@pytest.mark.parametrize("told", [True, False], ids=["with the connector's", "vLLM's own alone"])
def test_caches_that_are_cleared_in_a_pause_are_readable_no_more(owner: Played, *, told: bool) -> None:
    """New weights come next: what was kept is of the old ones. A step of the pause tells the worker."""
    request_id, params = kept(owner)
    scheduler = owner.scheduler
    scheduler.set_pause_state(PauseState.PAUSED_ALL)
    assert scheduler.reset_prefix_cache(reset_running_requests=True, reset_connector=told)
    assert scheduler.has_requests(), "an engine that is paused must step for it"
    output, metadata = owner.schedule()
    assert metadata.revokes == [lease_of(params)]
    owner.answer(output)
    assert scheduler.has_requests(), "until the worker has said so"
    owner.answer(owner.schedule()[0], sent={request_id}, ended=[lease_of(params)])
    assert not scheduler.has_requests()
    assert owner.all_blocks_are_free


def test_a_pause_waits_for_the_step_that_tells_of_a_finished_prefill(owner: Played) -> None:
    """The worker starts the lease's clock in it."""
    owner.add(40, dict(ASKED))
    owner.answer(owner.schedule()[0])
    owner.scheduler.set_pause_state(PauseState.PAUSED_ALL)
    assert owner.scheduler.has_requests()
    output, metadata = owner.schedule()
    assert len(metadata.finished) == 1
    owner.answer(output)
    assert not owner.scheduler.has_requests()


def test_nothing_of_the_old_weights_is_hit_after_a_pause(owner: Played) -> None:
    request_id, params = kept(owner)
    owner.scheduler.set_pause_state(PauseState.PAUSED_ALL)
    assert owner.scheduler.reset_prefix_cache(reset_running_requests=True, reset_connector=True)
    owner.scheduler.set_pause_state(PauseState.UNPAUSED)
    owner.answer(owner.schedule()[0], sent={request_id}, ended=[lease_of(params)])
    owner.add(40, None)
    assert sum(owner.schedule()[0].num_scheduled_tokens.values()) == 40


def test_other_pauses_wait_as_before(owner: Played) -> None:
    kept(owner)
    owner.scheduler.set_pause_state(PauseState.PAUSED_NEW)
    assert owner.scheduler.has_requests()
