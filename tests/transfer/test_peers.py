# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Connecting, being refused, and losing the other side."""

from __future__ import annotations

import logging
import struct
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from . import frames
from .harness import AgentError, Remote, ctrl_c_soon, until, wire
from .layout import Layout, digest, publish

if TYPE_CHECKING:
    from .conftest import Here, Launch, MakeHere

SECRET = b"sixteen bytes or more"
OTHER_SECRET = b"sixteen bytes or less"


def test_what_a_peer_says_of_itself(owner: Remote, reader: Here, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kvtransfer"):
        peer = reader.connect(owner)
    assert peer.name == "owner"
    assert peer.incarnation == owner.incarnation
    assert peer.alive
    assert [component.name for component in peer.map.components] == ["k", "v"]
    assert peer.plan_summary
    assert reader.engine.peers == (peer,)
    assert "lane shm" in caplog.text
    assert "message (works, less preferred)" in caplog.text


def test_required_lane(owner: Remote, reader: Here) -> None:
    assert reader.engine.connect(owner.descriptor, require_lane="cma").lane == "cma"
    assert reader.engine.connect(owner.descriptor, require_lane="message").lane == "message"
    with pytest.raises(kt.LaneError, match="cma"):
        reader.engine.connect(owner.descriptor, lanes=("message",), require_lane="cma")


def test_a_lane_the_owner_forbids(launch: Launch, reader: Here) -> None:
    owner = launch(lanes=["message"])
    assert reader.engine.connect(owner.descriptor).lane == "message"
    with pytest.raises(kt.LaneError, match="cma"):
        reader.engine.connect(owner.descriptor, require_lane="cma")


def test_wrong_admission_is_refused(launch: Launch, reader: Here) -> None:
    owner = launch(admission=SECRET.hex())
    assert SECRET in owner.descriptor
    forged = frames.sealed(owner.descriptor.replace(SECRET, OTHER_SECRET))
    with pytest.raises(kt.ConnectError):
        reader.engine.connect(forged, timeout=1.5)
    assert owner.call("counters")["bad_admission"] >= 1
    assert reader.connect(owner).alive


def test_another_protocol_version_is_a_mismatch(owner: Remote, reader: Here) -> None:
    ours = struct.pack("<I", kt.PROTOCOL_VERSION)
    assert owner.descriptor[8:12] == ours
    theirs = kt.PROTOCOL_VERSION + 6
    other = frames.sealed(owner.descriptor[:8] + struct.pack("<I", theirs) + owner.descriptor[12:])
    with pytest.raises(kt.MismatchError, match=rf"{theirs}.* {kt.PROTOCOL_VERSION}"):
        reader.engine.connect(other)


def test_the_owner_decides_how_large_segments_are(launch: Launch, reader: Here) -> None:
    owner = launch(segment_bytes=16384)
    peer = reader.connect(owner, "message")
    lease = owner.grant([3, 4, 5], watermark=48)
    peer.pull(lease, [[3, 4, 5]], [[0, 1, 2]], stop=48).wait(30)
    np.testing.assert_array_equal(reader.cache[:, :, :3], owner.layout.make(owner.seed)[:, :, 3:6])


def test_maps_that_do_not_fit_are_a_mismatch(launch: Launch, reader: Here) -> None:
    owner = launch(layout=Layout(heads=1))
    with pytest.raises((kt.MismatchError, kt.PlanError), match="head"):
        reader.engine.connect(owner.descriptor)


def test_damaged_descriptors(owner: Remote, reader: Here) -> None:
    good = owner.descriptor
    for bad in (b"", b"KVDIRECT", good[:-1], good + b"\0", good[:40] + b"\xff\xff" + good[42:], b"x" * 300):
        with pytest.raises(kt.CodecError):
            reader.engine.connect(bad)


def test_a_read_only_engine_cannot_read(owner: Remote) -> None:
    with kt.Engine(name="source only") as engine:
        cache = Layout().make(7)
        cache.flags.writeable = False
        publish(engine, cache, readonly=True)
        with pytest.raises(kt.ConfigError, match="read-only memory: components k, v"):
            engine.connect(owner.descriptor)


def test_an_owner_killed_before_the_pull(launch: Launch, reader: Here, lane: str) -> None:
    owner = launch()
    peer = reader.connect(owner, lane)
    lease = owner.grant([1], watermark=16)
    owner.process.kill()
    try:
        peer.pull(lease, [[1]], [[0]], stop=16).wait(30)
    except kt.PeerLost:
        pass
    else:  # until its end is noticed, what it shared is there as it left it
        assert lane == "shm"
        np.testing.assert_array_equal(reader.cache[:, :, 0], owner.layout.make(owner.seed)[:, :, 1])
    until(lambda: not peer.alive, "the peer is known to be lost")
    with pytest.raises(kt.PeerLost):
        peer.pull(lease, [[1]], [[0]], stop=16).wait(30)
    peer.complete(lease)  # lost without notice
    assert reader.engine.peers == ()


def test_an_owner_killed_during_the_pull_and_restarted(launch: Launch, reader: Here, lane: str) -> None:
    owner = launch()
    peer = reader.connect(owner, lane)
    lease = owner.grant([1])
    pulls = [peer.pull(lease, [[1]], [[0]], stop=16) for _ in range(3)]
    assert not any(pull.done for pull in pulls)
    owner.process.kill()
    for pull in pulls:
        with pytest.raises(kt.PeerLost):
            pull.wait(30)
        until(lambda pull=pull: pull.quiet, "a lost pull becomes quiet")  # type: ignore[misc]

    restarted = launch(seed=9)
    assert restarted.incarnation != owner.incarnation
    again = reader.connect(restarted, lane)
    fresh = restarted.grant([1], watermark=16)
    again.pull(fresh, [[1]], [[0]], stop=16).wait(30)
    np.testing.assert_array_equal(reader.cache[:, :, 0], restarted.layout.make(9)[:, :, 1])
    with pytest.raises(kt.KVTransferError):
        reader.engine.connect(owner.descriptor, timeout=3.0)  # the dead one does not answer, nor does its successor


def test_a_stopped_owner_is_a_timeout_not_a_hang(launch: Launch, reader: Here) -> None:
    owner = launch()
    peer = reader.connect(owner, "message")
    lease = owner.grant([1], watermark=16)
    owner.process.freeze()
    with pytest.raises((kt.PullTimeout, kt.PeerLost)):
        peer.pull(lease, [[1]], [[0]], stop=16, timeout=0.5).wait(30)


def test_closing_a_peer_fails_its_pulls(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1])
    pull = peer.pull(lease, [[1]], [[0]], stop=16)
    peer.close()
    assert pull.quiet
    with pytest.raises(kt.PeerLost):
        pull.result()
    peer.close()
    with pytest.raises((kt.PeerLost, kt.ClosedError)):
        peer.pull(lease, [[1]], [[0]], stop=16)
    assert reader.connect(owner, lane).alive


def test_closing_the_engine_fails_its_pulls(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    pull = peer.pull(owner.grant([1]), [[1]], [[0]], stop=16)
    reader.engine.close()
    assert pull.quiet
    with pytest.raises((kt.PeerLost, kt.ClosedError)):
        pull.wait(30)


def test_two_readers_share_one_owner(launch: Launch) -> None:
    owner, first, second = launch(), launch(name="first", seed=2), launch(name="second", seed=3)
    lease = owner.grant([3, 4, 5], watermark=48, term=100.0)
    for reader in (first, second):
        reader.call("connect", descriptor=owner.descriptor.hex())
    for reader in (first, second):
        reader.process.post(
            "pull", peer=owner.incarnation, lease=wire(lease), remote=[3, 4, 5], local=[0, 1, 2], stop=48
        )
    whole = owner.layout.make(owner.seed)
    for reader in (first, second):
        assert reader.process.answer()["bytes"] == whole[:, :, :3].nbytes
        expected = reader.layout.make(reader.seed)
        expected[:, :, :3] = whole[:, :, [3, 4, 5]]
        assert reader.call("digest") == digest(expected)


def test_one_reader_with_two_owners(launch: Launch, reader: Here, lane: str) -> None:
    owners = [launch(name="left", seed=2), launch(name="right", seed=3)]
    peers = [reader.connect(owner, lane) for owner in owners]
    leases = [owner.grant([6], watermark=16) for owner in owners]
    pulls = [
        peer.pull(lease, [[6]], [[local]], stop=16)
        for local, (peer, lease) in enumerate(zip(peers, leases, strict=True))
    ]
    for local, (pull, owner) in enumerate(zip(pulls, owners, strict=True)):
        pull.wait(30)
        np.testing.assert_array_equal(reader.cache[:, :, local], owner.layout.make(owner.seed)[:, :, 6])


def test_two_engines_read_from_each_other(launch: Launch, here: MakeHere, lane: str) -> None:
    other, reader = launch(name="other", seed=2), here()
    peer = reader.connect(other, lane)
    back = other.call("connect", descriptor=reader.engine.descriptor().hex(), lanes=[lane])
    assert back["incarnation"] == reader.engine.incarnation
    ours = reader.engine.grant([[30]], watermark=16)
    theirs = other.grant([6], watermark=16)
    other.process.post("pull", peer=reader.engine.incarnation, lease=wire(ours), remote=[30], local=[31], stop=16)
    peer.pull(theirs, [[6]], [[0]], stop=16).wait(30)
    other.process.answer()
    np.testing.assert_array_equal(reader.cache[:, :, 0], other.layout.make(2)[:, :, 6])
    expected = other.layout.make(2)
    expected[:, :, 31] = reader.before[:, :, 30]
    assert other.call("digest") == digest(expected)


def test_an_agents_error_names_its_class(owner: Remote) -> None:
    """The harness passes errors on: a test that expects one in another process can fail."""
    with pytest.raises(AgentError, match="epoch 0") as caught:
        owner.call("grant", tables=[[1]], lease=[3, 0])
    assert caught.value.kind == "ConfigError"


def test_a_signal_ends_the_wait_for_an_owner_that_stands_still(launch: Launch, here: MakeHere) -> None:
    """Ctrl-C; the engine is as before, and what still waits for the owner keeps nobody."""
    owner, reader = launch(), here()
    owner.process.freeze()
    began = time.monotonic()
    with ctrl_c_soon(), pytest.raises(KeyboardInterrupt):
        reader.engine.connect(owner.descriptor, timeout=30.0)
    reader.engine.close()
    assert time.monotonic() - began < 10
