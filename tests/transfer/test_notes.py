# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""What a reader tells an owner's program, and how much of it an owner keeps."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

import kvtransfer as kt

from .harness import until, wire

if TYPE_CHECKING:
    from .conftest import Here, Launch, MakeHere
    from .harness import Remote

KEPT_OF_A_SESSION, KEPT = 256, 4096


def test_notes_arrive_in_order_and_from_whom(owner: Remote, here: MakeHere) -> None:
    readers = [here(), here()]
    for reader in readers:
        peer = reader.connect(owner)
        for number in range(50):
            peer.notify(b"\xff\0" + bytes([number]))
    until(lambda: owner.call("counters")["notes"] == 100, "all notes came")
    notes = owner.call("take_notes")
    for reader in readers:
        mine = [bytes.fromhex(body) for name, who, body in notes if who == reader.engine.incarnation]
        assert mine == [b"\xff\0" + bytes([number]) for number in range(50)]
    assert {name for name, _, _ in notes} == {"reader"}
    assert owner.call("take_notes") == []


def test_a_note_comes_before_what_is_completed_after_it(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    for _ in range(20):
        lease = owner.grant([1], watermark=16, term=60)
        peer.notify(b"done")
        peer.complete(lease)
        assert owner.call("wait_ended", timeout=30.0) == [[*wire(lease), "completed"]]
        assert [body for _, _, body in owner.call("take_notes")] == [b"done".hex()]


def test_what_nobody_takes_is_dropped_and_counted(owner: Remote, here: MakeHere) -> None:
    first, second = here().connect(owner), here().connect(owner)
    for number in range(KEPT_OF_A_SESSION + 44):
        first.notify(number.to_bytes(2, "big") * 512)
    until(lambda: owner.call("counters")["notes_dropped"] == 44, "what has no room was counted")
    second.notify(b"there is room for another's")
    until(lambda: owner.call("counters")["notes"] == KEPT_OF_A_SESSION + 1, "what has room came")
    bodies = [bytes.fromhex(body) for _, _, body in owner.call("take_notes")]
    assert bodies[:KEPT_OF_A_SESSION] == [number.to_bytes(2, "big") * 512 for number in range(KEPT_OF_A_SESSION)]
    assert len(bodies) == KEPT_OF_A_SESSION + 1
    first.notify(b"again")
    until(lambda: len(owner.call("take_notes")) == 1, "there is room again")


def test_an_owner_keeps_so_many_of_all_readers(owner: Remote, here: MakeHere) -> None:
    readers = [here() for _ in range(KEPT // KEPT_OF_A_SESSION + 1)]
    for reader in readers:
        peer = reader.connect(owner)
        for _ in range(KEPT_OF_A_SESSION):
            peer.notify(b"")
    until(lambda: owner.call("counters")["notes_dropped"] == KEPT_OF_A_SESSION, "the last one's were dropped")
    assert len(owner.call("take_notes")) == KEPT


def test_notes_to_who_stands_still_are_bounded(launch: Launch, reader: Here) -> None:
    owner = launch()
    peer = reader.connect(owner)
    owner.process.freeze()
    for _ in range(20_000):  # more than the kernel's buffers and ours take
        peer.notify(bytes(1024))
    until(lambda: reader.engine.counters()["notes_dropped"] > 0, "some were dropped here")
    owner.process.kill()
    until(lambda: not peer.alive, "the loss is known")
    with pytest.raises(kt.PeerLost, match="notify"):
        peer.notify(b"")


def test_notes_that_are_too_long_are_refused_here(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    peer.notify(bytes(1024))
    with pytest.raises(kt.ConfigError, match="a note of 1025 bytes, at most 1024"):
        peer.notify(bytes(1025))
    until(lambda: len(owner.call("take_notes")) == 1, "the first came")


def test_who_waits_for_notes_hears_the_first_and_the_end(here: MakeHere) -> None:
    engine = here().engine
    began = time.monotonic()
    assert engine.take_notes() == []
    assert engine.take_notes(timeout=0.3) == []
    assert time.monotonic() - began >= 0.3
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(kt.ConfigError, match="expected a number of seconds"):
            engine.take_notes(timeout=bad)
    heard: list[list[kt.Note]] = []
    waiter = threading.Thread(target=lambda: heard.append(engine.take_notes(timeout=60)))
    waiter.start()
    here().engine.connect(engine.descriptor()).notify(b"now")
    waiter.join(30)
    assert [[note.body for note in notes] for notes in heard] == [[b"now"]]
    waiter = threading.Thread(target=lambda: heard.append(engine.take_notes(timeout=60)))
    waiter.start()
    time.sleep(0.1)
    engine.close()
    waiter.join(30)
    assert heard[1:] == [[]]
