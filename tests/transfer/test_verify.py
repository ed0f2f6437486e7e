# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Pulls that are proven by their owner's digest: right ones pass, and a single changed bit does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer import testing

from .harness import Remote, until, wire
from .layout import BIG, PLANAR_NHD, Layout, after_pull
from .relay import Relay
from .test_permuted import INTERLEAVED, PLANAR_HND
from .test_shards import HEADS, REMOTE, WHOLE, connect, expected_of, owners_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Here, Launch, MakeHere

BLOCKS, LOCAL = [7, 3, 4, 5, 20], [1, 30, 31, 8, 2]


def pulled(peer: kt.Peer, owner: Remote, *, verify: bool = True, timeout: float = 30.0) -> kt.Pull:
    lease = owner.grant(BLOCKS, watermark=80)
    return peer.pull(lease, [BLOCKS], [LOCAL], start=5, stop=75, verify=verify, timeout=timeout)


def assert_arrived(here: Here, owner: Remote) -> None:
    expected = after_pull(here.before, owner.layout.make(owner.seed), LOCAL, BLOCKS, 5, 75)
    np.testing.assert_array_equal(here.cache, expected)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (Layout(), Layout()),
        (Layout(order=PLANAR_NHD), Layout(order=PLANAR_HND)),
        (Layout(order=INTERLEAVED), Layout(order=PLANAR_HND)),
        (Layout(block_size=16), Layout(block_size=4)),
    ],
    ids=["alike", "hnd", "interleaved", "blocks"],
)
def test_right_bytes_are_proven(launch: Launch, here: MakeHere, lane: str, theirs: Layout, ours: Layout) -> None:
    owner, reader = launch(layout=theirs), here(ours)
    peer = reader.connect(owner, lane)
    local = LOCAL if ours.block_size == theirs.block_size else list(range(20))
    lease = owner.grant(BLOCKS, watermark=80)
    result = peer.pull(lease, [BLOCKS], [local], start=4, stop=76, verify=True).wait(30)
    assert (result.lane, result.bytes) == (lane, 72 * 2 * theirs.layers * theirs.heads * theirs.width * 4)
    expected = after_pull(reader.before, owner.layout.make(owner.seed), local, BLOCKS, 4, 76)
    np.testing.assert_array_equal(reader.cache, expected)
    assert reader.engine.counters()["pulls_proven"] == 1
    assert reader.engine.counters()["pulls_ok"] == 1
    assert reader.engine.counters()["bytes_pulled"] == result.bytes
    assert owner.call("counters")["digests_made"] == 1


def test_holes_are_not_in_it(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([3, 5], watermark=48)
    reader.cache[...] = 77
    result = peer.pull(lease, [[3, -1, 5]], [[1, -1, 2]], stop=48, verify=True).wait(30)
    assert result.bytes == 32 * 2 * owner.layout.layers * owner.layout.heads * owner.layout.width * 4


def test_a_bit_that_changed_where_it_landed_is_noticed(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    testing.spoil_next_pull()
    pull = pulled(peer, owner)
    with pytest.raises(kt.DigestMismatch, match=rf"over {lane} brought other bytes than its owner has") as caught:
        pull.wait(30)
    until(lambda: pull.quiet, "nothing looks at the destination")
    theirs, ours = (words.split()[0] for words in caught.value.status.removeprefix("XXH3-128 ").split(", "))
    assert len(theirs) == len(ours) == 32
    assert theirs != ours
    counters = reader.engine.counters()
    assert (counters["pulls_proven"], counters["pulls_disproved"], counters["pulls_failed"]) == (0, 1, 1)
    assert peer.alive
    pulled(peer, owner).wait(30)
    assert_arrived(reader, owner)


@pytest.mark.parametrize("verify", [False, True])
def test_a_bit_that_changed_on_the_wire(launch: Launch, here: MakeHere, *, verify: bool) -> None:
    """Without a proof nobody would know."""
    owner, reader = launch(), here(message_streams=1)
    with Relay(owner.descriptor) as relay:
        peer = reader.engine.connect(relay.descriptor, lanes=("message",))
        relay.expect(1)[0].flip_a_bit_after(4096)
        pull = pulled(peer, owner, verify=verify)
        if verify:
            with pytest.raises(kt.DigestMismatch):
                pull.wait(30)
            return
        pull.wait(30)
        with pytest.raises(AssertionError, match="Mismatched elements: 1 /"):
            assert_arrived(reader, owner)


@pytest.fixture(params=["shm", "cma"])
def unproven(
    request: pytest.FixtureRequest, owner: Remote, reader: Here
) -> Iterator[tuple[Relay, kt.LeaseRef, kt.Pull]]:
    """A pull whose bytes have landed; what the reader asks the owner about them is held back."""
    with Relay(owner.descriptor) as relay:
        peer = reader.engine.connect(relay.descriptor, lanes=(request.param,))
        relay.expect(1)[0].hold_back_requests()
        lease = owner.grant(BLOCKS, watermark=80)
        pull = peer.pull(lease, [BLOCKS], [LOCAL], start=5, stop=75, verify=True, timeout=3.0)
        expected = after_pull(reader.before, owner.layout.make(owner.seed), LOCAL, BLOCKS, 5, 75)
        until(lambda: bool((reader.cache == expected).all()), "the bytes have landed")
        time.sleep(0.2)
        assert not pull.done
        yield relay, lease, pull
        until(lambda: pull.quiet, "nothing looks at the destination any more")


def test_a_lease_that_ends_before_it_is_proven(owner: Remote, unproven: tuple[Relay, kt.LeaseRef, kt.Pull]) -> None:
    """The bytes were right, and nobody can say so any more."""
    relay, lease, pull = unproven
    owner.call("revoke", lease=wire(lease))
    relay.strands[0].let_requests_through()
    with pytest.raises(kt.LeaseExpired, match=r"could not be proven: .*no longer holds this lease"):
        pull.wait(30)


def test_an_owner_that_does_not_answer(unproven: tuple[Relay, kt.LeaseRef, kt.Pull]) -> None:
    with pytest.raises(kt.PullTimeout, match="could not be proven"):
        unproven[2].wait(30)


def test_an_owner_that_is_killed(owner: Remote, unproven: tuple[Relay, kt.LeaseRef, kt.Pull]) -> None:
    owner.process.kill()
    with pytest.raises(kt.PeerLost, match="could not be proven"):
        unproven[2].wait(30)


def test_a_pull_that_is_cancelled(unproven: tuple[Relay, kt.LeaseRef, kt.Pull]) -> None:
    relay, _, pull = unproven
    pull.cancel()
    with pytest.raises(kt.PullCancelled):
        pull.wait(30)
    relay.strands[0].let_requests_through()


def test_every_shard_is_proven(launch: Launch, here: MakeHere, lane: str) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    peer = connect(reader, owners, lane)
    leases = [owner.grant(ids, watermark=80, term=60) for owner, ids in zip(owners, REMOTE, strict=True)]
    tables = [[ids] for ids in REMOTE]
    peer.pull(leases, tables, [LOCAL], start=5, stop=75, verify=True).wait(30)
    np.testing.assert_array_equal(reader.cache, expected_of(reader.before, owners, REMOTE, 5, 75))
    assert [owner.call("counters")["digests_made"] for owner in owners] == [1, 1]
    assert reader.engine.counters()["pulls_proven"] == 2
    testing.spoil_next_pull()
    with pytest.raises(kt.DigestMismatch):
        peer.pull(leases, tables, [LOCAL], start=5, stop=75, verify=True).wait(30)


def test_a_large_pull_holds_nobody_up(launch: Launch, here: MakeHere, lane: str) -> None:
    """Hashing is done in turns: renewals and other pulls go on."""
    owner, reader = launch(layout=BIG), here(BIG)
    peer = reader.connect(owner, lane)
    blocks = list(range(BIG.blocks))
    lease = owner.grant(blocks, watermark=BIG.blocks * BIG.block_size)
    large = [
        peer.pull(lease, [blocks], [blocks], stop=BIG.blocks * BIG.block_size, verify=True, timeout=60)
        for _ in range(3)
    ]
    for pull in large:
        pull.wait(60)
    np.testing.assert_array_equal(reader.cache, BIG.make(owner.seed))
    assert owner.call("counters")["slowest_turn_us"] < 100_000
