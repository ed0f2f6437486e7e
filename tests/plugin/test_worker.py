# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Two worker halves with real engines and real caches between them; only vLLM's steps are played."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here")

from played_worker import BLOCKS, NAMES, Half, fresh, lend, order, same

from kvdirect.metadata import Grant, Hold, StepMetadata
from kvdirect.worker.half import Results
from kvtransfer import testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextlib.contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Hear what is logged: vLLM's loggers do not propagate once an engine's configuration has been made."""
    logger = logging.getLogger("vllm.kvdirect")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_what_was_lent_arrives_and_is_given_back(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [3, 9, 4], 80, "p")
    total = reader.steps_until(
        lambda results: "d" in results.received,
        holds=[Hold("d", owner.address, lease)],
        pulls=[order("d", [3, 9, 4], [7, 1, 2], 0, 80)],
    )
    assert total.failed == set()
    assert same(owner, [3, 9, 4], reader, [7, 1, 2])
    assert not reader.caches[NAMES[0]][[3, 4, 5, 6]].any(), "nothing else was written"
    assert reader.step(releases=["d"], completes=["d"]).received == set()
    assert owner.steps_until(lambda results: "p" in results.sent).received == set()
    report = owner.worker.report()
    assert report is not None
    assert report.ended == {lease: 1}
    assert owner.step().sent == reader.step().received == set()
    stats = owner.worker.take_stats()
    assert stats is not None
    assert stats.data["leases"] == {"completed": 1}
    assert stats.data["granted"] == 1


def test_the_owner_hears_of_the_end_before_the_next_forward(start: Callable[..., Half]) -> None:
    """Not after it: until then it holds the blocks, and looks for the end all the time."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [3], 32, "p")
    hold = Hold("d", owner.address, lease)
    reader.steps_until(lambda results: "d" in results.received, holds=[hold], pulls=[order("d", [3], [7], 0, 32)])
    step = StepMetadata(releases=["d"], completes=["d"])
    reader.worker.begin(step)
    owner.steps_until(lambda results: "p" in results.sent)
    reader.worker.written(step)
    assert reader.worker.results().received == set()


def test_a_pull_starts_before_the_forward_of_the_step_that_orders_it(start: Callable[..., Half]) -> None:
    """And the owner hears of an end before it too: vLLM calls start_load_kv when the forward is over."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    first, second = lend(owner, [3, 9], 64, "p"), lend(owner, [4], 32, "q")
    hold = Hold("d", owner.address, first)
    reader.steps_until(lambda results: "d" in results.received, holds=[hold], pulls=[order("d", [3, 9], [7, 1], 0, 64)])
    step = StepMetadata(
        holds=[Hold("e", owner.address, second)],
        pulls=[order("e", [4], [2], 0, 32)],
        releases=["d"],
        completes=["d"],
    )
    reader.worker.begin(step)
    deadline = time.monotonic() + 20.0
    while not same(owner, [4], reader, [2]):
        assert time.monotonic() < deadline, "nothing arrives while the forward runs"
        time.sleep(0.005)
    owner.steps_until(lambda results: "p" in results.sent)
    reader.worker.written(step)
    assert reader.worker.results().received == {"e"}


def test_a_step_that_computes_nothing_waits_for_a_pull(
    start: Callable[..., Half], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watermark is raised while the step runs, and the pull waits for it: one step is enough."""
    monkeypatch.setattr("kvdirect.worker.half._PATIENCE", 30.0)
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = fresh()
    owner.step(grants=[Grant(lease, ([1, 2],), 40)])
    assert reader.worker._reader is not None
    connection = reader.worker._reader._connections.to(owner.address)
    connection.result(20.0)
    raising = threading.Timer(0.2, owner.step, kwargs={"grants": [Grant(lease, ([],), 64)]})
    raising.start()
    pulls = [order("d", [1, 2], [3, 4], 0, 64)]
    results = reader.step(holds=[Hold("d", owner.address, lease)], pulls=pulls, idle=True)
    raising.join()
    assert (results.received, results.failed) == ({"d"}, set())
    assert same(owner, [1, 2], reader, [3, 4])


def test_only_positions_from_start_are_written(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [3, 9, 4], 96, "p")
    reader.steps_until(
        lambda results: "d" in results.received,
        holds=[Hold("d", owner.address, lease)],
        pulls=[order("d", [3, 9, 4], [7, 1, 2], 64, 96)],
    )
    assert same(owner, [4], reader, [2])
    assert not reader.caches[NAMES[0]][[7, 1]].any()


def test_a_waiting_request_keeps_its_lease_alive(start: Callable[..., Half]) -> None:
    """Nobody pulls for several terms, but the reader knows that it will."""
    owner = start("kv_producer", lease_first_term=1.0)
    reader = start("kv_consumer", lease_term=1.0)
    lease, lost = lend(owner, [1, 2], 64, "kept"), lend(owner, [3, 4], 64, "lost")
    reader.step(holds=[Hold("d", owner.address, lease)])
    until = time.monotonic() + 4.0
    reader.steps_until(lambda _: time.monotonic() > until)
    assert owner.steps_until(lambda results: bool(results.sent)).sent == {"lost"}
    pulls = [order("d", [1, 2], [5, 6], 0, 64)]
    assert reader.steps_until(lambda results: "d" in results.received, pulls=pulls).failed == set()
    assert same(owner, [1, 2], reader, [5, 6])
    reader.step(releases=["d"], completes=["d"])
    assert owner.steps_until(lambda results: "kept" in results.sent).sent == {"kept"}
    report = owner.worker.report()
    assert report is not None
    assert set(report.ended) == {lease, lost}


@pytest.mark.parametrize(("verify", "proven"), [("off", 0), ("sampled", 1), ("all", 3)])
def test_pulls_are_proven_as_the_settings_say(start: Callable[..., Half], verify: str, proven: int) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer", verify=verify)
    for number in range(3):
        assert pulled_once(owner, reader, number).failed == set()
    assert reader.worker._engine is not None
    assert reader.worker._engine.counters()["pulls_proven"] == proven


def test_other_bytes_than_the_owners_fail_the_request(
    start: Callable[..., Half], caplog: pytest.LogCaptureFixture
) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer", verify="all")
    testing.spoil_next_pull()
    with listening(caplog) as said:
        assert pulled_once(owner, reader, 0).failed == {"d0"}
    assert re.search(r"XXH3-128 [0-9a-f]{32} at the owner, [0-9a-f]{32} here", said.text)
    stats = reader.worker.take_stats()
    assert stats is not None
    assert stats.data["failures"] == {"DigestMismatch": 1}
    assert pulled_once(owner, reader, 1).failed == set()


def pulled_once(owner: Half, reader: Half, number: int) -> Results:
    """One request's blocks 1 and 2 into 5 and 6."""
    lease, request_id = lend(owner, [1, 2], 64, f"p{number}"), f"d{number}"
    held, pulls = Hold(request_id, owner.address, lease), [order(request_id, [1, 2], [5, 6], 0, 64)]
    total = reader.steps_until(lambda results: bool(results.received), holds=[held], pulls=pulls)
    reader.step(releases=[request_id], completes=[request_id])
    return total


def test_a_full_disk_costs_the_pull_log_and_nothing_else(
    start: Callable[..., Half], caplog: pytest.LogCaptureFixture
) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer", pull_log="/dev/full")
    with listening(caplog) as said:
        for number in range(2):
            assert pulled_once(owner, reader, number).failed == set()
            assert same(owner, [1, 2], reader, [5, 6])
    lines = {record.getMessage() for record in said.records if "pull_log" in record.getMessage()}
    assert lines == {"kvdirect: pull_log is given up: [Errno 28] No space left on device"}


def test_a_rank_that_completes_nothing_renews_no_longer(start: Callable[..., Half]) -> None:
    """So blocks are free after a term where the rank that should complete them is gone."""
    owner = start("kv_producer", lease_first_term=1.0)
    reader = start("kv_consumer", lease_term=1.0)
    assert reader.worker._reader is not None
    connections = reader.worker._reader._connections
    connections._shard = dataclasses.replace(connections._shard, rank=1, size=2)
    lease = lend(owner, [1, 2], 64, "p")
    reader.step(holds=[Hold("d", owner.address, lease)])
    until = time.monotonic() + 2.5
    reader.steps_until(lambda _: time.monotonic() > until)
    assert connections.to(owner.address).result().completes == (0,)
    assert owner.step().sent == set(), "it renews"
    reader.step(releases=["d"], completes=["d"])
    assert owner.steps_until(lambda results: bool(results.sent)).sent == {"p"}


def test_a_revoked_lease_fails_the_pull_once(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [1], 32, "p")
    assert owner.step(revokes=[lease]).sent == {"p"}
    total = reader.steps_until(
        lambda results: "d" in results.received,
        holds=[Hold("d", owner.address, lease)],
        pulls=[order("d", [1], [2], 0, 32)],
    )
    assert total.failed == {"d"}
    assert reader.step().received == set()
    stats = reader.worker.take_stats()
    assert stats is not None
    assert stats.data["failures"] == {"LeaseExpired": 1}


def test_a_lease_that_ended_before_its_request_is_reported_once(start: Callable[..., Half]) -> None:
    owner = start("kv_producer")
    lease = fresh()
    owner.step(grants=[Grant(lease, ([1],), 32)])
    owner.step(revokes=[lease])
    report = owner.worker.report()
    assert report is not None
    assert report.ended == {lease: 1}
    assert owner.step(finished=[("p", lease)]).sent == {"p"}
    assert owner.step().sent == set()
    assert owner.worker.report() is None


def test_a_grant_that_makes_no_sense_costs_its_lease_only(start: Callable[..., Half]) -> None:
    owner = start("kv_producer")
    lease = fresh()
    owner.step(grants=[Grant(lease, ([BLOCKS + 5],), 32)])
    report = owner.worker.report()
    assert report is not None
    assert report.ended == {lease: 1}
    assert owner.step(finished=[("p", lease)]).sent == {"p"}
    lend(owner, [1], 32, "next")


def test_a_release_completes_without_pulling(start: Callable[..., Half]) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [1], 32, "p")
    reader.step(holds=[Hold("d", owner.address, lease)], releases=["d"], completes=["d"])
    total = Results()
    deadline = time.monotonic() + 20
    while "p" not in total.sent:
        assert time.monotonic() < deadline
        total.sent |= owner.step().sent
        assert reader.step().received == set()
        time.sleep(0.005)


def test_the_last_of_several_requests_completes(start: Callable[..., Half]) -> None:
    """Also when the worker hears of the second one only when the first has been reported."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [1, 2], 64, "p")
    hold0, hold1 = (Hold(name, owner.address, lease) for name in ("d0", "d1"))
    first, second = [order("d0", [1, 2], [3, 4], 0, 64)], [order("d1", [1, 2], [5, 6], 0, 64)]
    reader.steps_until(lambda results: "d0" in results.received, holds=[hold0], pulls=first)
    until = time.monotonic() + 0.5
    assert owner.steps_until(lambda _: time.monotonic() > until).sent == set()
    reader.step(holds=[hold1], releases=["d0"])
    until = time.monotonic() + 0.5
    assert owner.steps_until(lambda _: time.monotonic() > until).sent == set()
    assert reader.steps_until(lambda results: "d1" in results.received, pulls=second).failed == set()
    assert same(owner, [1, 2], reader, [5, 6])
    reader.step(releases=["d1"], completes=["d1"])
    assert owner.steps_until(lambda results: bool(results.sent)).sent == {"p"}


def test_a_restarted_owner_is_another_owner(start: Callable[..., Half], model: Path) -> None:
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [1], 32, "p")
    hold, pull = Hold("before", owner.address, lease), order("before", [1], [2], 0, 32)
    before = reader.steps_until(lambda results: "before" in results.received, holds=[hold], pulls=[pull])
    assert before.failed == set()
    old, port = owner.address, owner.server.port
    owner.close()
    again = Half(model, "kv_producer", port=port)
    try:
        assert again.incarnation != old.incarnation
        stale, good = fresh(), lend(again, [1], 32, "p2")
        total = reader.steps_until(
            lambda results: {"stale", "new"} <= results.received,
            holds=[Hold("stale", old, stale), Hold("new", again.address, good)],
            pulls=[order("stale", [1], [3], 0, 32), order("new", [1], [4], 0, 32)],
        )
        assert total.failed == {"stale"}
        assert same(again, [1], reader, [4])
    finally:
        again.close()


def test_an_abort_is_reported_when_nothing_can_land(start: Callable[..., Half]) -> None:
    """The watermark never gets there, so the pull waits; the abort ends it, and the lease with it."""
    owner, reader = start("kv_producer"), start("kv_consumer")
    lease = lend(owner, [1, 2], 40, "p")
    reader.step(holds=[Hold("d", owner.address, lease)], pulls=[order("d", [1, 2], [3, 4], 0, 64)])
    until = time.monotonic() + 0.5
    assert reader.steps_until(lambda _: time.monotonic() > until).received == set()
    assert reader.steps_until(lambda results: "d" in results.received, cancels=["d"]).failed == {"d"}
    reader.step(releases=["d"], completes=["d"])
    assert owner.steps_until(lambda results: bool(results.sent)).sent == {"p"}
