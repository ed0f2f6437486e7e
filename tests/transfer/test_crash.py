# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""kill -9 of either side while a pull stands half-way: the other one notices, loses nothing and goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

import kvtransfer as kt
from kvtransfer import testing

from .harness import Remote, until, wire
from .layout import BIG

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Launch, MakeHere

BLOCKS = list(range(200))
STOP = len(BLOCKS) * BIG.block_size
# Every pull of the message lane travels over several connections, however few processors there are.
STREAMS = 3
TERM = 3.0


def stall_next_pull(owner: Remote, lane: str, file: Path) -> None:
    """In the process that moves the bytes: the owner's on `message`, else this one."""
    if lane == "message":
        owner.call("stall_next_pull", file=str(file))
    else:
        testing.stall_next_pull(file)


def stalled(file: Path) -> tuple[int, int]:
    """Waits for a pull, or one connection's portion of it, to stand half-way: bytes landed, and in all."""
    until(file.exists, "a pull stands half-way")
    landed, total = map(int, file.read_text().split())
    assert 0 < landed < total
    return landed, total


def pull(peer: kt.Peer, lease: kt.LeaseRef) -> kt.Pull:
    return peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=60.0)


def test_the_reader_is_killed(launch: Launch, lane: str, tmp_path: Path) -> None:
    """Nothing renews the lease any more, so its blocks come back; the next reader is served."""
    owner = launch(layout=BIG, message_streams=STREAMS)
    reader = launch(name="doomed", seed=2, layout=BIG, message_streams=STREAMS)
    staller = owner if lane == "message" else reader
    staller.call("stall_next_pull", file=str(tmp_path / "stall"))
    incarnation = reader.call("connect", descriptor=owner.descriptor.hex(), lanes=[lane])["incarnation"]
    lease = owner.grant(BLOCKS, watermark=STOP, term=TERM)
    reader.process.post(
        "pull", peer=incarnation, lease=wire(lease), remote=BLOCKS, local=BLOCKS, stop=STOP, timeout=60.0
    )
    stalled(tmp_path / "stall")
    reader.process.kill()
    assert owner.call("wait_ended", timeout=TERM + 20) == [[*wire(lease), "expired"]]
    assert owner.call("live") == 0
    if lane == "message":
        (tmp_path / "stall").unlink()
    assert_serves(owner, launch(name="next", seed=3, layout=BIG, message_streams=STREAMS), lane)


def test_the_owner_is_killed(launch: Launch, here: MakeHere, lane: str, tmp_path: Path) -> None:
    """The pull fails with a reason in bounded time, and a new owner at once takes its place."""
    owner, reader = launch(layout=BIG, message_streams=STREAMS), here(BIG, message_streams=STREAMS)
    stall_next_pull(owner, lane, tmp_path / "stall")
    peer = reader.connect(owner, lane)
    lease = owner.grant(BLOCKS, watermark=STOP, term=60.0)
    running = pull(peer, lease)
    stalled(tmp_path / "stall")
    owner.process.kill()
    began = time.monotonic()
    with pytest.raises(kt.PeerLost):
        running.wait(30)
    assert time.monotonic() - began < 5, "kill -9 of the owner must fail its pulls within 5 s"
    until(lambda: running.quiet, "nothing can land any more")
    (tmp_path / "stall").unlink()
    successor = launch(name="successor", seed=4, layout=BIG, message_streams=STREAMS)
    fresh = successor.grant(BLOCKS, watermark=STOP, term=60.0)
    result = pull(reader.connect(successor, lane), fresh).wait(30)
    assert result.lane == lane
    assert (reader.cache[:, :, BLOCKS] == successor.layout.make(successor.seed)[:, :, BLOCKS]).all()


def test_the_owner_is_killed_and_leaves_a_forked_child(
    launch: Launch, here: MakeHere, lane: str, tmp_path: Path
) -> None:
    """What a fork of the owner still has open is no sign of life: readers notice as they do without one."""
    owner, reader = launch(layout=BIG, message_streams=STREAMS), here(BIG, message_streams=STREAMS)
    stall_next_pull(owner, lane, tmp_path / "stall")
    peer = reader.connect(owner, lane)
    lease = owner.grant(BLOCKS, watermark=STOP, term=60.0)
    running = pull(peer, lease)
    stalled(tmp_path / "stall")
    child = owner.call("fork_a_sleeper")
    try:
        owner.process.kill()
        until(lambda: not peer.alive, "the session is lost", deadline=5)
        (tmp_path / "stall").unlink(missing_ok=True)
        with pytest.raises(kt.PeerLost):
            running.wait(5)
        with pytest.raises(kt.PeerLost):
            pull(peer, lease).wait(5)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stalled_pull_goes_on(launch: Launch, here: MakeHere, lane: str, tmp_path: Path) -> None:
    """The hook itself: what it held back arrives in full."""
    owner, reader = launch(layout=BIG, message_streams=STREAMS), here(BIG, message_streams=STREAMS)
    stall_next_pull(owner, lane, tmp_path / "stall")
    lease = owner.grant(BLOCKS, watermark=STOP, term=60.0)
    running = pull(reader.connect(owner, lane), lease)
    stalled(tmp_path / "stall")
    time.sleep(0.3)
    assert not running.done
    (tmp_path / "stall").unlink()
    assert running.wait(30).bytes == owner.layout.make(owner.seed)[:, :, BLOCKS].nbytes
    assert (reader.cache[:, :, BLOCKS] == owner.layout.make(owner.seed)[:, :, BLOCKS]).all()


def assert_serves(owner: Remote, reader: Remote, lane: str) -> None:
    lease = owner.grant(BLOCKS, watermark=STOP, term=60.0)
    incarnation = reader.call("connect", descriptor=owner.descriptor.hex(), lanes=[lane])["incarnation"]
    result = reader.call("pull", peer=incarnation, lease=wire(lease), remote=BLOCKS, local=BLOCKS, stop=STOP)
    assert result["bytes"] > 0
