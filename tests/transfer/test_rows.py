# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Rows by id, gathered from stores in other processes."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer import testing

from .harness import Process, until
from .row_store import FEATURES, LABELS, WIDTH, features, labels
from .row_stores import HALVES, ROWS, SEED, SPLITS, Store, some_ids

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from kvtransfer.rows import RowSlot

    from .row_stores import Reading, Stores


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_those_that_numpy_takes(stores: Stores, reading: Reading, lane: str, split: str) -> None:
    _, offers = stores(SPLITS[split])
    reader = reading(offers, lanes=[lane], slots=3)
    assert {peer.lane for peer in reader.peers} == {lane}
    slots: list[tuple[npt.NDArray[np.int64], RowSlot]] = []
    for seed, count in enumerate((4000, 1, 2500)):
        ids = some_ids(SPLITS[split], count, seed)
        slots.append((ids, reader.gather(ids)))
    for ids, slot in slots:
        slot.wait(30)
        assert len(slot) == len(ids)
        np.testing.assert_array_equal(slot[FEATURES], np.take(features(SEED, ROWS), ids, axis=0))
        np.testing.assert_array_equal(slot[LABELS], np.take(labels(SEED, ROWS), ids, axis=0))
        assert slot.result().bytes == len(ids) * (4 * WIDTH + 8)


def test_more_than_the_caches_hold_is_copied_past_them_and_nothing_else_is_touched(
    stores: Stores, reading: Reading, lane: str
) -> None:
    _, offers = stores(HALVES)
    count = (40 << 20) // (4 * WIDTH)
    reader = reading(offers, lanes=[lane], slots=1, max_rows=count + 1)
    ids = some_ids(HALVES, count)
    memory = reader._memory[FEATURES]
    memory[count] = 7
    with reader.gather(ids, [FEATURES]).wait(60) as slot:
        np.testing.assert_array_equal(slot[FEATURES], features(SEED, ROWS)[ids])
    assert (memory[count] == 7).all()


def test_ids_of_one_store_ask_only_that_one(stores: Stores, reading: Reading) -> None:
    halves, offers = stores(HALVES)
    reader = reading(offers, lanes=["message"])
    before = [store.call("counters")["pulls_served"] for store in halves]
    with reader.gather([1699, 0, 5]).wait(30) as slot:
        np.testing.assert_array_equal(slot[FEATURES], features(SEED, ROWS)[[1699, 0, 5]])
    assert [store.call("counters")["pulls_served"] for store in halves] == [before[0] + 1, before[1]]


def test_no_ids_are_no_rows(stores: Stores, reading: Reading) -> None:
    _, offers = stores(HALVES)
    reader = reading(offers, slots=1)
    with reader.gather([]).wait(30) as slot:
        assert slot.result().bytes == 0
        assert slot[FEATURES].shape == (0, WIDTH)
    assert reader.gather([1]).wait(30)[FEATURES].shape == (1, WIDTH)  # the slot came back


def test_matrices_can_be_chosen_by_reader_and_by_gather(stores: Stores, reading: Reading, lane: str) -> None:
    _, offers = stores(HALVES)
    ids = some_ids(HALVES, 300)
    both = reading(offers, lanes=[lane])
    with both.gather(ids, [LABELS]).wait(30) as slot:
        assert slot.result().bytes == 8 * len(ids)
        np.testing.assert_array_equal(slot[LABELS], labels(SEED, ROWS)[ids])
        with pytest.raises(KeyError):
            slot[FEATURES]
    one = reading(offers, lanes=[lane], matrices=[FEATURES])
    with one.gather(ids).wait(30) as slot:
        assert slot.result().bytes == 4 * WIDTH * len(ids)
        np.testing.assert_array_equal(slot[FEATURES], features(SEED, ROWS)[ids])
    with pytest.raises(kt.ConfigError, match=r"matrices=.*expected some of features"):
        one.gather(ids, [LABELS])


def test_gathers_are_awaited(stores: Stores, reading: Reading) -> None:
    _, offers = stores(HALVES)
    reader = reading(offers, slots=4)
    batches = [some_ids(HALVES, 100, seed) for seed in range(4)]

    async def all_of_them() -> list[npt.NDArray[Any]]:
        return await asyncio.gather(*(_ended(reader.gather(ids)) for ids in batches))

    for ids, rows in zip(batches, asyncio.run(asyncio.wait_for(all_of_them(), 30)), strict=True):
        np.testing.assert_array_equal(rows, features(SEED, ROWS)[ids])


async def _ended(slot: RowSlot) -> npt.NDArray[Any]:
    return (await slot)[FEATURES].copy()


@pytest.mark.parametrize(
    ("split", "ids", "told"),
    [
        ("two", [0, ROWS, 5], rf"ids\[1\] is {ROWS}, which no store has"),
        ("two", [4, 5, -1], r"ids\[2\] is -1, which no store has"),
        ("every third", [ROWS], rf"ids\[0\] is {ROWS}, which no store has"),
        ("a gap", [499, 500], r"ids\[1\] is 500, which no store has"),
        ("two", [[1], [2]], r"ids has dtype int64 and shape \(2, 1\), expected a one-dimensional array"),
        ("two", [0.5], "ids has dtype float64"),
    ],
)
def test_ids_that_no_store_has_are_named(
    stores: Stores,
    reading: Reading,
    split: str,
    ids: list[Any],
    told: str,
) -> None:
    _, offers = stores(SPLITS[split])
    reader = reading(offers, slots=1)
    for _ in range(3):  # it takes no slot
        with pytest.raises(kt.PlanError, match=told):
            reader.gather(ids)


def test_too_many_ids_for_a_slot_and_too_few_slots_are_said(stores: Stores, reading: Reading) -> None:
    _, offers = stores(HALVES)
    reader = reading(offers, max_rows=10, slots=2)
    with pytest.raises(kt.ConfigError, match="11 ids, this reader's slots have room for 10"):
        reader.gather(range(11))
    first, second = reader.gather([1]), reader.gather([2])
    with pytest.raises(kt.InvalidState, match="all 2 slots are in use"):
        reader.gather([3])
    first.release()
    first.release()
    assert reader.gather([3]).wait(30)[LABELS][0] == labels(SEED, ROWS)[3]
    with pytest.raises(kt.InvalidState, match="released"):
        first[LABELS]
    second.release()


def test_a_failed_gather_that_falls_quiet_at_any_time_gives_its_slot_back(stores: Stores, reading: Reading) -> None:
    class Falling:
        """A failed pull that falls quiet between the first two looks after its release."""

        done, looks = True, 0

        @property
        def quiet(self) -> bool:
            self.looks += 1
            return self.looks > 2  # the first look is at its release

    _, offers = stores(HALVES)
    reader = reading(offers, slots=1)
    pull: Any = Falling()
    reader._release(reader._take(1), pull)
    reader.gather([7]).wait(30).release()


def test_a_slot_is_kept_by_its_arrays(stores: Stores, reading: Reading) -> None:
    _, offers = stores(HALVES)
    reader = reading(offers, slots=1)
    rows = reader.gather([5, 6]).wait(30)[FEATURES]
    part = rows[1:]
    del rows
    gc.collect()
    with pytest.raises(kt.InvalidState, match="all 1 slots are in use"):
        reader.gather([7])
    np.testing.assert_array_equal(part[0], features(SEED, ROWS)[6])
    del part
    gc.collect()
    reader.gather([7]).wait(30).release()


def test_a_store_that_dies_fails_the_gather_and_its_successor_serves_the_next(
    stores: Stores,
    reading: Reading,
    lane: str,
    tmp_path: Path,
) -> None:
    _, offers = stores(HALVES)
    mortal = Process(module="transfer.row_store")
    dying = Store(mortal, mortal.call("start", rows=ROWS, ids=[1700, ROWS, 1], seed=SEED))
    reader = reading([offers[0], dying.offer()], lanes=[lane], slots=2, max_rows=ROWS)
    ids = some_ids(HALVES, ROWS)
    stall = tmp_path / "stalled"
    # Where the second store's part stands still, the gather can end by its death only.
    if lane == "message":
        dying.call("stall_next_pull", file=str(stall))
    else:
        testing.stall_next_pull(stall)
    slot = reader.gather(ids, timeout=60) if lane == "message" else None
    if slot is None:
        made: list[RowSlot] = []
        thread = threading.Thread(target=lambda: made.append(reader.gather(ids, timeout=60)))
        thread.start()
        until(stall.exists, "a pull stands still")
        mortal.kill()
        stall.unlink()
        thread.join(60)
        slot = made[0]
    else:
        until(stall.exists, "a pull stands still")
        mortal.kill()
    with pytest.raises(kt.PeerLost):
        slot.wait(30)
    with pytest.raises(kt.PeerLost):
        slot[FEATURES]
    slot.release()
    until(lambda: reader.lost == (1,), "the loss is known")
    with pytest.raises(kt.PeerLost, match="shard 1 went away"):
        reader.gather(ids)
    with reader.gather(some_ids(HALVES[:1], 50)).wait(30):
        pass  # the other store serves on
    reader.replace(1, offers[1])  # of its successor
    assert reader.lost == ()
    for _ in range(3):
        with reader.gather(ids).wait(30) as after:
            np.testing.assert_array_equal(after[FEATURES], features(SEED, ROWS)[ids])


def test_a_gather_that_was_given_up_leaves_nothing_in_the_next(stores: Stores, reading: Reading, lane: str) -> None:
    _, offers = stores(HALVES)
    reader = reading(offers, lanes=[lane], slots=1, max_rows=10 * ROWS)
    for round_ in range(10):
        given_up, ids = some_ids(HALVES, 10 * ROWS, round_), some_ids(HALVES, ROWS, round_)
        slot = reader.gather(given_up)
        if round_ % 2:
            slot.cancel()
        slot.release()
        with reader.gather(ids).wait(30) as after:
            np.testing.assert_array_equal(after[FEATURES], features(SEED, ROWS)[ids])
