# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Streamed pulls: a prompt's cache is ordered piece by piece while it is computed.

An owner and a reader inside vLLM's real scheduler with the real handshake between them, and real engines with real
caches; what is played is vLLM's steps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_scheduler import FULL, Played
from played_worker import BLOCKS, NAMES, TOKENS, Half, fresh, same
from test_forgetting import WINDOW
from vllm.v1.request import RequestStatus

from kvdirect.handshake.client import resolve_claims
from kvdirect.handshake.messages import RUNNING
from kvdirect.metadata import Grant, Hold, PullOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllm.v1.request import Request

    from kvdirect.metadata import LeaseId

CLAIM = "0123456789abcdef" * 2
DEADLINE = 20.0


class Pair:
    """A prefill of 200 tokens, 64 in a step, and a reader that asks for it from the beginning."""

    def __init__(self, play: Callable[..., Played], *, streamed: bool = True, **more: Any) -> None:  # noqa: ANN401
        self.owner = play("kv_producer", **more)
        self.reader = play("kv_consumer", streamed=streamed, **more)
        asked = {"do_remote_decode": True, "do_remote_prefill": False, "kvdirect_claim": CLAIM}
        self.there = self.owner.add(200, asked)
        self.port = int(self.owner.scheduler.connector.scheduler._server.port)
        where = {"remote_host": "127.0.0.1", "remote_port": self.port, "kvdirect_claim": CLAIM}
        self.here = self.reader.add(200, {"do_remote_prefill": True, **where}, max_tokens=2)
        self.orders: list[PullOrder] = []

    @property
    def reading(self) -> Any:  # noqa: ANN401
        return self.reader.scheduler.connector.scheduler._reader

    def prefills(self, **more: Any) -> None:  # noqa: ANN401
        """One step of the owner."""
        self.owner.answer(self.owner.schedule()[0], **more)

    def read(self) -> None:
        output, metadata = self.reader.schedule()
        self.orders += metadata.pulls
        self.reader.answer(output)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not done():
            self.read()
            assert time.monotonic() < deadline, self.orders
            time.sleep(0.005)

    def ranges(self) -> list[tuple[int, int, int, bool]]:
        return [(order.start, order.stop, order.watermark, order.last) for order in self.orders]


def test_each_piece_is_ordered_while_it_is_computed(play: Callable[..., Played]) -> None:
    pair = Pair(play)
    output, _ = pair.owner.schedule()
    for _ in range(5):  # the workers may not have granted the lease yet
        pair.read()
        time.sleep(0.02)
    assert pair.orders == []
    assert pair.reader.all_blocks_are_free
    pair.owner.answer(output)
    for pieces in (1, 2):
        output, _ = pair.owner.schedule()
        pair.until(lambda pieces=pieces: len(pair.orders) == pieces)  # type: ignore[misc]
        assert pair.here.status == RequestStatus.WAITING_FOR_REMOTE_KVS
        pair.owner.answer(output)
    output, _ = pair.owner.schedule()
    pair.until(lambda: len(pair.orders) == 3)  # the last one, too, before it is computed
    assert pair.ranges() == [(0, 128, 128, False), (128, 192, 192, False), (192, 224, 199, True)]
    assert [order.again for order in pair.orders] == [False, True, True]
    assert [len(order.remote[0]) for order in pair.orders] == [4, 6, 7]
    assert all(order.more for order in pair.orders)
    ticket = pair.owner.answer(output)[pair.there.request_id]
    assert ticket is not None
    assert "kvdirect_so_far" not in ticket
    assert tuple(ticket["remote_block_ids"][0]) == pair.orders[-1].remote[0]
    pair.until(lambda: not pair.orders[-1].more)
    assert pair.ranges()[3:] == [(224, 224, 199, True)]
    assert not pair.orders[-1].lost
    assert not pair.reading._streams
    assert not pair.reading._awaited._owners


def test_who_does_not_stream_is_told_that_it_runs(play: Callable[..., Played]) -> None:
    pair = Pair(play, streamed=False)
    pair.prefills()
    output, _ = pair.owner.schedule()
    assert resolve_claims("127.0.0.1", pair.port, [CLAIM], timeout=5.0) == (RUNNING,)
    told = resolve_claims("127.0.0.1", pair.port, [CLAIM], timeout=5.0, streamed=True)[0]
    assert isinstance(told, bytes)
    assert b'"kvdirect_so_far":128' in told
    pair.owner.answer(output)
    for _ in range(5):
        pair.read()
        time.sleep(0.02)
    assert pair.orders == []
    assert pair.reader.all_blocks_are_free


def test_a_cache_that_forgets_is_read_at_the_end(play: Callable[..., Played]) -> None:
    pair = Pair(play, specs=(FULL, WINDOW))
    for _ in range(2):
        pair.prefills()
    pair.until(lambda: [order.stop for order in pair.orders][-1:] == [128])
    pair.prefills()
    pair.read()
    assert all(order.more for order in pair.orders)
    pair.prefills()
    assert pair.there.is_finished()
    pair.until(lambda: not pair.orders[-1].more)
    assert {order.chosen for order in pair.orders} == {(True, False)}
    assert all(order.remote[1] == () for order in pair.orders[:-1])
    assert any(pair.orders[-1].remote[1])
    assert pair.orders[-1].begin == 0


def test_a_prefill_that_begins_anew_is_read_under_its_new_lease(play: Callable[..., Played]) -> None:
    pair = Pair(play)
    pair.prefills()
    pair.prefills()
    pair.until(lambda: len(pair.orders) == 1)
    preempt(pair.owner, pair.there)
    while not pair.there.is_finished():
        pair.prefills()
    pair.until(lambda: not pair.orders[-1].more)
    anew = [order for order in pair.orders if order.lease is not None]
    assert len(anew) == 1
    assert (anew[0].start, anew[0].lost) == (0, "")
    assert (pair.orders[-1].last, pair.orders[-1].lost) == (True, "")
    assert pair.reading._pulling[pair.here.request_id].epoch == anew[0].lease[1]
    assert list(pair.reading._sharers.values()) == [1]
    assert not pair.reading._streams
    assert not pair.reading._awaited._owners


@pytest.mark.parametrize("end", ["aborted", "gone"])
def test_a_stream_whose_prefill_ends_badly_fails_and_is_forgotten(play: Callable[..., Played], end: str) -> None:
    pair = Pair(play)
    pair.prefills()
    pair.prefills()
    pair.until(lambda: len(pair.orders) == 1)
    if end == "aborted":
        pair.owner.scheduler.finish_requests([pair.there.request_id], RequestStatus.FINISHED_ABORTED)
    else:
        pair.owner.scheduler.connector.shutdown()
    pair.until(lambda: not pair.orders[-1].more)
    assert pair.orders[-1].lost
    assert pair.orders[-1].start == pair.orders[-1].stop
    assert not pair.reading._streams
    assert not pair.reading._awaited._owners


def preempt(played: Played, request: Request) -> None:
    played.scheduler.running.remove(request)
    played.scheduler._preempt_request(request, time.monotonic())


def test_nothing_is_left_of_a_stream_that_is_aborted(play: Callable[..., Played]) -> None:
    pair = Pair(play)
    pair.prefills()
    pair.prefills()
    pair.until(lambda: len(pair.orders) == 1)
    pair.reader.scheduler.finish_requests([pair.here.request_id], RequestStatus.FINISHED_ABORTED)
    _, metadata = pair.reader.schedule()
    assert metadata.cancels == [pair.here.request_id]
    assert not pair.reading._streams
    assert not pair.reading._awaited._owners


# ---- between workers ------------------------------------------------------------------------------------------------


REMOTE, LOCAL = [3, 9, 4], [7, 1, 2]


def piece(
    first: int,
    stop: int,
    *,
    more: bool = True,
    remote: Sequence[int] = REMOTE,
    **change: Any,  # noqa: ANN401
) -> PullOrder:
    """Blocks [first, stop) of three."""
    return PullOrder(
        "d",
        (tuple(remote[:stop]),),
        (LOCAL,),
        first * TOKENS,
        stop * TOKENS,
        stop * TOKENS,
        chosen=(True,),
        again=first > 0 or "lease" in change,
        last=stop == len(LOCAL),
        more=more,
        **change,
    )


def compute(owner: Half, lease: LeaseId, number: int, remote: Sequence[int] = REMOTE) -> None:
    """A step that fills one block."""
    for cache in owner.caches.values():
        cache[remote[number]] = number + 1.5
    owner.step(grants=[Grant(lease, ([remote[number]],), (number + 1) * TOKENS)])


def midway(start: Callable[..., Half]) -> tuple[Half, Half, LeaseId]:
    """An owner that has computed one block, and a reader that has it and waits for the next."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = fresh()
    compute(owner, lease, 0)
    reader.step(holds=[Hold("d", owner.address, lease)], pulls=[piece(0, 1)])
    reader.step(pulls=[piece(1, 2)])
    settled(reader)
    return owner, reader, lease


def settled(reader: Half, seconds: float = 0.3) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not reader.step().received
        time.sleep(0.005)


def test_pieces_land_as_they_are_computed_and_are_one_pull(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = fresh()
    compute(owner, lease, 0)
    reader.step(holds=[Hold("d", owner.address, lease)], pulls=[piece(0, 1)])
    deadline = time.monotonic() + DEADLINE
    while not same(owner, REMOTE[:1], reader, LOCAL[:1]):
        assert not reader.step().received
        assert time.monotonic() < deadline
    assert not reader.step(pulls=[piece(1, 2)]).received
    settled(reader)
    assert not reader.caches[NAMES[0]][LOCAL[1:]].any(), "the second block is not final"
    compute(owner, lease, 1)
    assert not reader.step(pulls=[piece(2, 3, more=False)]).received
    settled(reader)
    compute(owner, lease, 2)
    assert owner.step(finished=[("p", lease)]).sent == set()
    total = reader.steps_until(lambda results: "d" in results.received)
    assert total.failed == set()
    assert same(owner, REMOTE, reader, LOCAL)
    assert not reader.caches[NAMES[0]][[block for block in range(1, BLOCKS) if block not in LOCAL]].any()
    stats = reader.worker.take_stats()
    assert stats is not None
    ((_, moved, *_),) = stats.data["pulls"]
    assert moved == sum(cache[REMOTE].nbytes for cache in owner.caches.values())
    ((_, early, exposed),) = stats.data["streams"]
    assert early == moved // 3 * 2
    assert exposed > 0
    reader.step(releases=["d"], completes=["d"])
    owner.steps_until(lambda results: "p" in results.sent)


@pytest.mark.parametrize("told", ["late", "soon"])
def test_a_prefill_that_begins_anew_is_read_on_and_not_twice(start: Callable[..., Half], told: str) -> None:
    owner, reader, first = midway(start)
    second = fresh()
    assert same(owner, REMOTE[:1], reader, LOCAL[:1])
    owner.step(revokes=[first])
    if told == "late":
        settled(reader)  # it may have begun anew: nothing has failed yet
        assert not reader.step(pulls=[piece(2, 3)]).received
        settled(reader)
    elsewhere = [5, 8, 6]
    compute(owner, second, 0, elsewhere)
    compute(owner, second, 1, elsewhere)
    anew = piece(0, 2, remote=elsewhere, lease=second)
    assert not reader.step(pulls=[anew]).received
    settled(reader)
    assert same(owner, elsewhere[:2], reader, LOCAL[:2])
    assert not reader.step(pulls=[piece(2, 3, remote=elsewhere)]).received
    compute(owner, second, 2, elsewhere)
    owner.step(finished=[("p", second)])
    total = reader.steps_until(lambda results: "d" in results.received)
    assert total.failed == set()
    assert same(owner, elsewhere, reader, LOCAL)
    stats = reader.worker.take_stats()
    assert stats is not None
    ((_, moved, *_),) = stats.data["pulls"]
    assert moved == sum(cache[LOCAL].nbytes for cache in reader.caches.values()), "a block was read twice"
    reader.step(releases=["d"], completes=["d"])
    owner.steps_until(lambda results: "p" in results.sent)


def test_a_prefill_that_begins_anew_after_all_was_read_has_its_new_lease_completed(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    first, second = fresh(), fresh()
    for number in range(3):
        compute(owner, first, number)
    reader.step(holds=[Hold("d", owner.address, first)], pulls=[piece(0, 3)])
    reader.steps_until(lambda results: "d" in results.received)
    owner.step(revokes=[first])
    for number in range(3):
        compute(owner, second, number)
    reader.step(pulls=[piece(0, 3, lease=second)])
    reader.step(releases=["d"], completes=["d"])
    owner.steps_until(lambda results: "p" in results.sent, finished=[("p", second)])


@pytest.mark.parametrize("how", ["revoked", "lost", "closed"])
def test_a_stream_that_fails_midway_reports_all_its_blocks_once(start: Callable[..., Half], how: str) -> None:
    owner, reader, lease = midway(start)
    if how == "revoked":
        owner.step(revokes=[lease])
        settled(reader)  # it may begin anew
    elif how == "closed":
        owner.close()
    lost = "it was" if how == "lost" else ""
    nothing_follows = PullOrder("d", ((),), (LOCAL,), 2 * TOKENS, 2 * TOKENS, 2 * TOKENS, again=True, lost=lost)
    more = {} if how == "closed" else {"pulls": [nothing_follows]}
    total = reader.steps_until(lambda results: "d" in results.received, **more)
    assert total.failed == {"d"}
    assert total.failed_blocks == set() or total.failed_blocks <= set(LOCAL)
    # What was ordered before the scheduler heard of it changes nothing.
    assert not reader.step(pulls=[piece(2, 3, more=False)]).received
    reader.step(releases=["d"], completes=["d"])
    assert not reader.step(pulls=[piece(2, 3, more=False)]).received


def test_a_stream_that_is_aborted_ends_when_nothing_can_land(start: Callable[..., Half]) -> None:
    owner, reader, lease = midway(start)
    total = reader.steps_until(lambda results: "d" in results.received, cancels=["d"])
    assert total.failed == {"d"}
    for cache in reader.caches.values():
        cache.zero_()
    compute(owner, lease, 1)
    settled(reader)
    assert not any(cache.any() for cache in reader.caches.values())
