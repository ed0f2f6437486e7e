# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Leases between processes: nothing stale is accepted, and every lease ends once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .harness import Remote, until, wire
from .layout import BIG

if TYPE_CHECKING:
    from .conftest import Here, Launch, MakeHere


def test_a_revoked_lease_is_refused(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1, 2], watermark=32)
    assert owner.call("revoke", lease=wire(lease))
    assert owner.call("take_ended") == [[lease.slot, lease.epoch, "revoked"]]
    with pytest.raises(kt.LeaseExpired):
        peer.pull(lease, [[1, 2]], [[0, 1]], stop=32).wait(30)
    assert peer.alive


def test_blocks_of_a_lease_revoked_during_the_pull_are_never_accepted(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1, 2], watermark=16)
    pull = peer.pull(lease, [[1, 2]], [[0, 1]], stop=32)  # waits for the watermark
    assert not pull.done
    owner.call("revoke_and_overwrite", lease=wire(lease), blocks=[1, 2], value=0xDEAD)
    with pytest.raises(kt.LeaseExpired):
        pull.wait(30)


def test_a_slot_given_to_another_lease_does_not_answer_for_the_old_one(launch: Launch, reader: Here, lane: str) -> None:
    owner = launch(lease_slots=1)
    peer = reader.connect(owner, lane)
    old = owner.grant([1], watermark=16)
    owner.call("revoke_and_overwrite", lease=wire(old), blocks=[1], value=0xDEAD)
    new = owner.grant([1], watermark=16, term=100.0)
    assert new.slot == old.slot
    with pytest.raises(kt.LeaseExpired):
        peer.pull(old, [[1]], [[0]], stop=16).wait(30)
    stale = owner.call("counters")["stale_epoch"]
    peer.complete(old)
    until(lambda: owner.call("counters")["stale_epoch"] > stale, "a complete of the old lease is counted as stale")
    peer.pull(new, [[1]], [[3]], stop=16).wait(30)
    assert (reader.cache[:, :, 3] == 0xDEAD).all()
    assert owner.call("live") == 1


def test_accepted_bytes_are_never_a_later_owners(launch: Launch, here: MakeHere, lane: str) -> None:
    """The owner revokes and overwrites in the middle of large pulls; one that ends valid holds what was leased.

    The moment is searched for: later when the pull was refused before it moved anything, earlier when it was done.
    """
    owner, reader = launch(layout=BIG), here(BIG)
    peer = reader.connect(owner, lane)
    blocks = list(range(BIG.blocks))
    positions = BIG.blocks * BIG.block_size
    earliest, latest = 0.0, 0.5
    interrupted = 0
    deadline = time.monotonic() + 60
    while interrupted < 5:
        assert time.monotonic() < deadline, f"hit {interrupted} pulls in the middle; {earliest=} {latest=}"
        delay = (earliest + latest) / 2
        owner.call("overwrite", blocks=blocks, value=7)
        reader.cache[:] = 0
        lease = owner.grant(blocks, watermark=positions)
        owner.process.post("give_up", lease=wire(lease), delay=delay, value=0xDEAD)
        try:
            peer.pull(lease, [blocks], [blocks], stop=positions).wait(30)
        except kt.LeaseExpired:
            moved = int(np.count_nonzero(reader.cache)) > 0
            interrupted += moved
            earliest = earliest if moved else delay
        else:
            assert (reader.cache == 7).all(), "a pull ended valid with bytes of a later owner"
            latest = delay
        owner.process.answer()
        if latest - earliest < 1e-4:  # another pull, another speed
            earliest, latest = earliest / 2, latest * 2


def test_an_expired_term(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1], watermark=16, term=0.2)
    assert owner.call("wait_ended", timeout=20.0) == [[lease.slot, lease.epoch, "expired"]]
    with pytest.raises(kt.LeaseExpired):
        reader.connect(owner, lane).pull(lease, [[1]], [[0]], stop=16).wait(30)
    assert owner.call("take_ended") == []


def test_holding_renews_until_drop(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16, term=2.0)
    peer.hold(lease, term=2.0)
    assert owner.call("wait_ended", timeout=5.0) == []  # two terms and a half
    peer.pull(lease, [[1]], [[0]], stop=16).wait(30)
    peer.drop(lease)
    assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "expired"]]


def test_holding_stops_when_not_affirmed(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    kept, forgotten = (owner.grant([block], watermark=16, term=1.5) for block in (1, 2))
    peer.hold(kept, term=1.5, affirm_within=2.0)
    peer.hold(forgotten, term=1.5, affirm_within=2.0)
    owner.process.post("wait_ended", timeout=30.0)
    stop = time.monotonic() + 6
    while time.monotonic() < stop:
        peer.affirm(kept)
        time.sleep(0.05)
    assert owner.process.answer() == [[forgotten.slot, forgotten.epoch, "expired"]]
    assert owner.call("live") == 1


def test_max_hold_ends_what_is_renewed_for_ever(launch: Launch, reader: Here) -> None:
    owner = launch(max_hold=1.5)
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16, term=1.0)
    peer.hold(lease, term=1.0)
    assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "max_hold"]]


def test_the_watermark_is_waited_for(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1, 2], watermark=16)
    owner.call("overwrite", blocks=[2], value=5)
    peer = reader.connect(owner, lane)
    pull = peer.pull(lease, [[1, 2]], [[0, 1]], stop=32)
    with pytest.raises(kt.WaitTimeout):
        pull.wait(0.3)
    owner.call("overwrite", blocks=[2], value=6)
    owner.call("raise_watermark", lease=wire(lease), positions=32)
    pull.wait(30)
    assert (reader.cache[:, :, 1] == 6).all()


def test_an_explicit_watermark_counts_instead_of_stop(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1, 2], watermark=16)
    assert peer.pull(lease, [[1, 2]], [[0, 1]], stop=32, watermark=16).wait(30).bytes > 0
    with pytest.raises(kt.PullTimeout):
        peer.pull(lease, [[1, 2]], [[0, 1]], stop=16, watermark=17, timeout=0.3).wait(30)


def test_complete_ends_the_lease_once(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1], watermark=16, term=100.0)
    peer.pull(lease, [[1]], [[0]], stop=16).wait(30)
    peer.complete(lease)
    assert owner.call("wait_ended", timeout=20.0) == [[lease.slot, lease.epoch, "completed"]]
    before = owner.call("counters")["stale_epoch"]
    peer.complete(lease)
    until(lambda: owner.call("counters")["stale_epoch"] > before, "a late complete is counted")
    assert owner.call("take_ended") == []


def test_an_early_complete_is_reported_after_the_clock_starts(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16)
    peer.complete(lease)
    assert owner.call("wait_ended", timeout=0.5) == []
    assert owner.call("live") == 1
    owner.call("start_term", lease=wire(lease), term=100.0)
    assert owner.call("wait_ended", timeout=20.0) == [[lease.slot, lease.epoch, "completed"]]


def test_every_reader_must_complete(launch: Launch) -> None:
    owner, first, second = launch(), launch(name="first", seed=2), launch(name="second", seed=3)
    for reader in (first, second):
        reader.call("connect", descriptor=owner.descriptor.hex())
    lease = owner.grant([1], watermark=16, term=100.0)
    first.call("complete", peer=owner.incarnation, lease=wire(lease), readers=2)
    assert owner.call("wait_ended", timeout=0.5) == []
    second.call("complete", peer=owner.incarnation, lease=wire(lease), readers=2)
    assert owner.call("wait_ended", timeout=20.0) == [[lease.slot, lease.epoch, "completed"]]


def test_a_killed_readers_lease_expires(owner: Remote, launch: Launch) -> None:
    reader = launch(name="reader", seed=2)
    reader.call("connect", descriptor=owner.descriptor.hex())
    lease = owner.grant([1], watermark=16, term=1.5)
    reader.call("hold", peer=owner.incarnation, lease=wire(lease), term=1.5)
    assert owner.call("wait_ended", timeout=3.0) == []
    reader.process.kill()
    assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "expired"]]


def test_grants_in_steps_with_a_chosen_slot(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    chosen = kt.LeaseRef(4321, 0xFEDCBA9876543210)
    assert owner.grant([1], lease=wire(chosen), watermark=16) == chosen
    assert owner.grant([2], lease=wire(chosen), watermark=32) == chosen
    peer.pull(chosen, [[1, 2]], [[0, 1]], stop=32).wait(30)
    whole = owner.layout.make(owner.seed)
    np.testing.assert_array_equal(reader.cache[:, :, [0, 1]], whole[:, :, [1, 2]])


def test_what_was_said_right_before_the_close_arrives(owner: Remote, here: MakeHere) -> None:
    for _ in range(10):
        reader = here()
        peer = reader.connect(owner, "message")
        lease = owner.grant([1], watermark=16, term=300.0)
        peer.complete(lease)
        reader.engine.close()
        assert owner.call("wait_ended", timeout=20.0) == [[*wire(lease), "completed"]]
