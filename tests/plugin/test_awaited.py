# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Both legs of a request at once: the reader waits without blocks, and gets the ticket from the owner by a claim.

An owner and a reader inside vLLM's real scheduler, and the real handshake between them; only workers are played.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from vllm.v1.request import RequestStatus

from kvdirect.handshake.client import resolve_claims
from kvdirect.handshake.messages import NONE, RUNNING, UNKNOWN, digest
from kvdirect.scheduler import awaited
from kvdirect.transfer_params import RemoteLease

if TYPE_CHECKING:
    from collections.abc import Callable

    from played_scheduler import Played
    from vllm.v1.request import Request

CLAIM = "0123456789abcdef" * 2
DEADLINE = 20.0


@pytest.fixture
def owner(play: Callable[..., Played]) -> Played:
    return play("kv_producer")


@pytest.fixture
def reader(play: Callable[..., Played]) -> Played:
    return play("kv_consumer")


def port_of(owner: Played) -> int:
    return int(owner.scheduler.connector.scheduler._server.port)


def prefill(owner: Played, tokens: int = 100, **more: Any) -> Request:  # noqa: ANN401
    asked = {"do_remote_decode": True, "do_remote_prefill": False, "kvdirect_claim": CLAIM}
    return owner.add(tokens, asked, **more)


def ahead(owner: Played, reader: Played, tokens: int = 100, **change: Any) -> Request:  # noqa: ANN401
    """The decode leg, before there is a ticket."""
    where = {"remote_host": "127.0.0.1", "remote_port": port_of(owner), "kvdirect_claim": CLAIM}
    return reader.add(tokens, {"do_remote_prefill": True, "do_remote_decode": False, **where, **change}, max_tokens=2)


def told(owner: Played, claim: str = CLAIM) -> bytes | int:
    return resolve_claims("127.0.0.1", port_of(owner), [claim], timeout=5.0)[0]


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def until_decided(reader: Played, request: Request) -> tuple[Any, Any]:
    """Step until the reader waits for no ticket any more: that step's output and metadata."""
    deadline = time.monotonic() + DEADLINE
    while True:
        output, metadata = reader.schedule()
        if request.status != RequestStatus.WAITING or output.num_scheduled_tokens:
            return output, metadata
        reader.answer(output)
        assert time.monotonic() < deadline, "it waits still"
        time.sleep(0.005)


def test_a_claim_is_followed_from_its_arrival_until_its_blocks_are_free(owner: Played) -> None:
    assert told(owner) == UNKNOWN
    request = prefill(owner)
    assert told(owner) == RUNNING
    output, _ = owner.schedule()
    owner.answer(output)
    assert told(owner) == RUNNING
    output, metadata = owner.schedule()
    (grant,) = metadata.grants
    ticket = owner.answer(output)[request.request_id]
    assert ticket is not None
    encoded = told(owner)
    assert isinstance(encoded, bytes)
    ticket.pop("remote_prefill_cached_tokens", None)  # vLLM's, for its front end
    assert awaited._ticket(encoded) == ticket
    assert told(owner, CLAIM[::-1]) == UNKNOWN
    owner.answer(owner.schedule()[0], sent={request.request_id}, ended=[grant.lease])
    assert told(owner) == NONE


def test_a_reader_waits_without_blocks_and_pulls_once_there_is_a_ticket(owner: Played, reader: Played) -> None:
    request = ahead(owner, reader)
    for _ in range(3):
        output, metadata = reader.schedule()
        assert (output.num_scheduled_tokens, metadata.holds, metadata.pulls) == ({}, [], [])
        reader.answer(output)
    assert reader.all_blocks_are_free
    there = prefill(owner)
    owner.answer(owner.schedule()[0])
    ticket = owner.answer(owner.schedule()[0])[there.request_id]
    assert ticket is not None
    _, metadata = until_decided(reader, request)
    assert request.status == RequestStatus.WAITING_FOR_REMOTE_KVS
    (hold,), (order,) = metadata.holds, metadata.pulls
    lease = RemoteLease.decode(ticket["kvdirect_lease"])
    assert hold.lease == (lease.slot, lease.epoch)
    assert (order.start, order.stop, order.watermark) == (0, 128, 99)


def test_others_go_on_while_one_waits(owner: Played, reader: Played) -> None:
    waits = ahead(owner, reader)
    other = reader.add(20, None)
    output, _ = reader.schedule()
    assert output.num_scheduled_tokens == {other.request_id: 20}
    assert waits.status == RequestStatus.WAITING


@pytest.mark.parametrize("end", ["aborted", "given back"])
def test_a_prefill_that_leaves_no_ticket_is_done_by_the_reader(owner: Played, reader: Played, end: str) -> None:
    request = ahead(owner, reader)
    there = prefill(owner)
    owner.answer(owner.schedule()[0])
    if end == "aborted":
        owner.scheduler.finish_requests([there.request_id], RequestStatus.FINISHED_ABORTED)
    else:
        gone = owner.add(1, {"do_remote_prefill": True, "kvdirect_claim": CLAIM}, abort_immediately=True)
        owner.scheduler.finish_requests([gone.request_id], RequestStatus.FINISHED_ABORTED)
    assert told(owner) == NONE
    output, metadata = until_decided(reader, request)
    assert output.num_scheduled_tokens == {request.request_id: 64}  # of its own prompt, a step's worth
    assert metadata.pulls == metadata.holds == []


def test_one_that_was_never_asked_for_is_waited_for_a_while(
    owner: Played, reader: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaited, "UNHEARD", 0.3)
    request = ahead(owner, reader)
    began = time.monotonic()
    output, _ = until_decided(reader, request)
    assert output.num_scheduled_tokens == {request.request_id: 64}
    assert time.monotonic() - began >= 0.3


def test_an_owner_that_is_gone_is_not_waited_for(owner: Played, reader: Played) -> None:
    request = ahead(owner, reader)
    owner.scheduler.connector.shutdown()
    output, _ = until_decided(reader, request)
    assert output.num_scheduled_tokens == {request.request_id: 64}


@pytest.mark.parametrize(
    "change",
    [
        {"kvdirect_claim": "x"},
        {"kvdirect_claim": 7},
        {"remote_host": None},
        {"remote_host": "10.1.2.3"},
        {"remote_port": 0},
        {"remote_port": "5555"},
    ],
)
def test_a_claim_that_makes_no_sense_costs_a_local_prefill(
    owner: Played, reader: Played, change: dict[str, Any]
) -> None:
    request = ahead(owner, reader, **change)
    output, _ = reader.schedule()
    assert output.num_scheduled_tokens == {request.request_id: 64}


def test_nothing_is_left_of_one_that_was_aborted_while_it_waited(owner: Played, reader: Played) -> None:
    request = ahead(owner, reader)
    reader.answer(reader.schedule()[0])
    reader.scheduler.finish_requests([request.request_id], RequestStatus.FINISHED_ABORTED)
    half = reader.scheduler.connector.scheduler._reader
    assert not half._waiting
    assert not half._awaited._owners
    until(lambda: all(thread.name != "kvdirect-awaits" for thread in threading.enumerate()))


def test_a_step_without_work_rests_until_there_is_news(owner: Played, reader: Played) -> None:
    ahead(owner, reader)
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        reader.schedule()
        steps += 1
    assert steps <= 30, "of 20 ms each"


def held(
    port: int, claims: list[str], known: list[bytes | int], hold: float = 10.0
) -> tuple[tuple[bytes | int, ...], float]:
    """What is answered to a question that waits for news, and after how many seconds."""
    began = time.monotonic()
    answers = resolve_claims("127.0.0.1", port, claims, timeout=20.0, unlike=digest(known), hold=hold)
    return answers, time.monotonic() - began


def test_a_question_is_held_until_there_is_news_and_no_longer_than_it_says(owner: Played) -> None:
    prefill(owner)
    port = port_of(owner)
    answers, took = held(port, [CLAIM], [UNKNOWN])
    assert (answers, took < 10.0) == ((RUNNING,), True)
    answers, took = held(port, [CLAIM], [RUNNING], hold=0.5)
    assert answers == (RUNNING,)
    assert 0.5 <= took < 10.0
    with ThreadPoolExecutor(1) as asking:
        question = asking.submit(held, port, [CLAIM], [RUNNING])
        with pytest.raises(FutureTimeoutError):
            question.result(timeout=0.3)
        for _ in range(2):
            owner.answer(owner.schedule()[0])
        (ticket,), took = question.result(timeout=DEADLINE)
    assert isinstance(ticket, bytes)
    assert took < 10.0
    assert told(owner) == ticket


def test_one_question_waits_whatever_is_wanted_meanwhile(owner: Played) -> None:
    asked: list[tuple[int, bool]] = []

    def ask(host: str, port: int, claims: Any, unlike: bytes, breakable: Any) -> Any:  # noqa: ANN401
        asked.append((len(claims), bool(unlike)))
        return resolve_claims(host, port, claims, timeout=5.0, unlike=unlike, breakable=breakable)

    tickets = awaited.AwaitedTickets(ask)
    where = ("127.0.0.1", port_of(owner))
    prefill(owner)
    tickets.want(where, CLAIM)
    until(lambda: asked == [(1, False), (1, True)])
    other = CLAIM[::-1]
    tickets.want(where, other)  # asked after at once, and then both are waited for
    until(lambda: asked[2:] == [(2, False), (2, True)])
    tickets.forget(where, other)
    for _ in range(2):
        owner.answer(owner.schedule()[0])
    until(lambda: isinstance(tickets.look(where, CLAIM), dict))
    tickets.forget(where, CLAIM)
    assert not tickets._owners
    assert len(asked) <= 5


def test_many_claims_cost_one_question(owner: Played) -> None:
    asked: list[int] = []

    def ask(host: str, port: int, claims: Any, unlike: bytes, breakable: Any) -> Any:  # noqa: ANN401
        asked.append(len(claims))
        return resolve_claims(host, port, claims, timeout=5.0, unlike=unlike, breakable=breakable)

    tickets = awaited.AwaitedTickets(ask)
    where = ("127.0.0.1", port_of(owner))
    claims = [f"{number:032x}" for number in range(600)]
    for claim in claims:
        owner.add(40, {"do_remote_decode": True, "kvdirect_claim": claim})
        tickets.want(where, claim)
    owner.scheduler.finish_requests(list(owner.scheduler.requests), RequestStatus.FINISHED_ABORTED)
    until(lambda: all(tickets.look(where, claim) is not None for claim in claims))
    assert max(asked) == 256
    for claim in claims:
        assert "left no ticket" in str(tickets.look(where, claim))
        tickets.forget(where, claim)
    assert not tickets._owners
