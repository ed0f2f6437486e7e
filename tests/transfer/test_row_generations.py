# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows that change while they are read: generations, swaps, and what goes back to a store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer.rows import RowOffer, RowStore

from .harness import Process, until
from .row_store import FEATURES, WIDTH, features
from .row_stores import HALVES, ROWS, SEED, Store, some_ids

if TYPE_CHECKING:
    import numpy.typing as npt

    from .row_stores import Reading, Stores


def test_a_swap_ends_the_old_generation_and_offers_the_new(stores: Stores, reading: Reading, lane: str) -> None:
    halves, offers = stores(HALVES, generations=2)
    reader = reading(offers, lanes=[lane])
    ids = some_ids(HALVES, 2000)
    seeds = [SEED, SEED]
    for shard, seed in ((0, 11), (1, 12), (0, 13)):
        offer = halves[shard].swap(seed)
        with pytest.raises(kt.LeaseExpired):
            reader.gather(ids).wait(30)
        reader.replace(shard, offer)
        seeds[shard] = seed
        with reader.gather(ids).wait(30) as slot:
            expected = np.concatenate(
                [features(one, ROWS)[part.start : part.stop] for one, part in zip(seeds, HALVES, strict=True)]
            )
            np.testing.assert_array_equal(slot[FEATURES], expected[ids])


def test_no_row_is_torn_by_swaps_under_load(stores: Stores, reading: Reading, lane: str) -> None:
    """Rows of one number each: a row, or a matrix, of two numbers is torn. In place, the checker sees it."""
    (store,), offers = stores([range(ROWS)], generations=2)
    reader = reading(offers, lanes=[lane], max_rows=2 * ROWS)
    ids = some_ids([range(ROWS)], 2 * ROWS)
    valid = expired = 0
    store.call("begin_storm", in_place=False)
    deadline = time.monotonic() + 60
    while valid < 10 or expired < 3:
        assert time.monotonic() < deadline, f"{valid} gathers were valid, {expired} leases had expired"
        reader.replace(0, store.offer())
        try:
            with reader.gather(ids, [FEATURES]).wait(30) as slot:
                rows = slot[FEATURES]
                assert _numbers(rows) == 1 or (rows == features(SEED, ROWS)[ids]).all()
                valid += 1
        except kt.LeaseExpired:
            expired += 1
    store.call("end_storm")


def test_the_check_for_torn_rows_sees_those_of_writes_in_place(stores: Stores, reading: Reading) -> None:
    (store,), offers = stores([range(ROWS)])
    reader = reading(offers, max_rows=2 * ROWS)
    ids = some_ids([range(ROWS)], 2 * ROWS)
    store.call("begin_storm", in_place=True)

    def torn() -> bool:
        with reader.gather(ids, [FEATURES]).wait(30) as slot:
            return _numbers(slot[FEATURES]) > 1

    until(torn, "rows of two writes are read")
    store.call("end_storm")


def _numbers(rows: npt.NDArray[Any]) -> int:
    return len(np.unique(rows))


def test_a_store_pulls_what_a_trainer_has_for_it(stores: Stores, reading: Reading) -> None:
    """Features down, gradients up: each side is the other's owner, and tells it by notes."""
    (store,), offers = stores([range(1000, 2000)], generations=2)
    offer = RowOffer.from_bytes(offers[0])
    expected = features(SEED, ROWS)
    batches, room = 6, 300
    mine = {"ids": (2 * room, 1, np.int64), "gradients": (2 * room, WIDTH, np.uint32)}
    with RowStore(mine, name="trainer") as slots:
        store.process.post("learn", store=store.number, gradients=slots.offer().to_bytes().hex(), batches=batches)
        reader = reading(offers)
        for batch in range(batches):
            ids = some_ids([range(1000, 2000)], room - batch, batch)
            with reader.gather(ids, [FEATURES]).wait(30) as slot:
                np.testing.assert_array_equal(slot[FEATURES], expected[ids])
                first = batch % 2 * room  # the other one may still be read
                here = slice(first, first + len(ids))
                slots.writable("ids")[here, 0] = ids
                slots.writable("gradients")[here] = slot[FEATURES] * 3 + batch
                np.add.at(expected, ids, slot[FEATURES] * 3 + batch)
            reader.peers[0].notify(json.dumps({"first": first, "count": len(ids)}).encode())
            (note,) = slots.engine.take_notes(timeout=30)
            offer = offer.renewed(note.body)
            reader.replace(0, offer)
        assert store.process.answer() == sum(room - batch for batch in range(batches)) * (8 + 4 * WIDTH)
        with reader.gather(range(1000, 2000)).wait(30) as slot:
            np.testing.assert_array_equal(slot[FEATURES], expected[1000:2000])
    for bad in (b"", b"x" * 28, offer.renewal()[:-1], RowOffer(b"", 1, 2, 3, range(1), 0, ()).renewal()):
        with pytest.raises(kt.CodecError):
            offer.renewed(bad)


def test_rows_that_were_withdrawn_are_read_again_once_they_are_offered_anew(
    stores: Stores,
    reading: Reading,
    lane: str,
) -> None:
    """The safe way to write where there is one generation."""
    halves, offers = stores(HALVES)
    reader = reading(offers, lanes=[lane])
    halves[0].call("withdraw")
    with pytest.raises(kt.LeaseExpired):
        reader.gather([5, 2000]).wait(30)
    reader.replace(0, halves[0].swap(9))
    with reader.gather([5, 2000]).wait(30) as slot:
        np.testing.assert_array_equal(slot[FEATURES], [features(9, ROWS)[5], features(SEED, ROWS)[2000]])


def test_an_offer_stays_good_past_max_hold(stores: Stores, reading: Reading) -> None:
    _, offers = stores([range(ROWS)], max_hold=0.2)
    reader = reading(offers)
    for peer in reader.peers:
        peer.complete(RowOffer.from_bytes(offers[0]).lease)  # what a reader says ends nothing
    time.sleep(0.6)
    for lane in reader.peers[0].lanes:
        other = reading(offers, lanes=[lane])
        with other.gather([1, 2]).wait(30) as slot:
            np.testing.assert_array_equal(slot[FEATURES], features(SEED, ROWS)[[1, 2]])


def test_ten_million_rows_are_granted_as_a_range(row_processes: list[Process], reading: Reading) -> None:
    """No list of them: that took 8 bytes a row, and the owner's control thread seconds to work out."""
    rows = 10_000_000
    store = Store(row_processes[0], row_processes[0].call("start_large", rows=rows))
    reader = reading([store.offer()], lanes=["message"])
    ids = np.random.default_rng(1).integers(rows, size=4000)
    with reader.gather(ids).wait(30) as slot:
        assert not slot[FEATURES].any()
    assert store.call("counters")["refused_runs"] == 0
    store.call("close")


def test_a_store_in_this_process_shows_what_readers_have() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    with RowStore({"x": values}, generations=2) as store:
        store.writable("x")[:] = -values
        np.testing.assert_array_equal(store["x"], values)
        assert not store["x"].flags.writeable
        store.swap()
        np.testing.assert_array_equal(store["x"], -values)
        np.testing.assert_array_equal(store.writable("x"), values)
        with pytest.raises(KeyError):
            store["y"]
        store.withdraw()
        with pytest.raises(kt.InvalidState, match="withdrawn"):
            store.offer()
        for _ in range(3 * 65536 // 1000):
            store.swap()
        assert store.engine.live_leases == 1
