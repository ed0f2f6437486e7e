# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One owner in several processes: a pull of all their parts is one pull."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt

from .conftest import LANES
from .harness import Remote, until
from .layout import BIG, Layout, after_pull

if TYPE_CHECKING:
    from .conftest import Here, Launch, MakeHere
    from .layout import Cache

WHOLE = Layout(layers=2, heads=4)
HEADS = [Layout(layers=2, heads=1), Layout(layers=2, heads=3, first_head=1)]
LAYERS = [Layout(layers=1, heads=4), Layout(layers=1, heads=4, first_layer=1)]
REMOTE, LOCAL = [[7, 3, 4, 5, 20], [1, 2, 9, 30, 8]], [1, 30, 31, 8, 2]


def owners_of(launch: Launch, layouts: list[Layout], **config: object) -> list[Remote]:
    return [launch(name=f"shard {i}", seed=i + 1, layout=layout, **config) for i, layout in enumerate(layouts)]


def connect(reader: Here, owners: list[Remote], lane: str | None = None, **options: Any) -> kt.ShardedPeer:  # noqa: ANN401
    return reader.engine.connect([owner.descriptor for owner in owners], require_lane=lane, **options)


def expected_of(before: Cache, owners: list[Remote], remote: list[list[int]], start: int, stop: int) -> Cache:
    """Each shard's part as a pull from it alone would leave it."""
    expected = before.copy()
    for owner, ids in zip(owners, remote, strict=True):
        shape = owner.layout
        part = (
            slice(None),
            slice(shape.first_layer, shape.first_layer + shape.layers),
            *[slice(None)] * 2,
            slice(shape.first_head, shape.first_head + shape.heads),
        )
        expected[part] = after_pull(before[part], shape.make(owner.seed), LOCAL, ids, start, stop)
    return expected


@pytest.mark.parametrize("layouts", [HEADS, LAYERS], ids=["heads", "layers"])
def test_bytes_of_all_shards(launch: Launch, here: MakeHere, lane: str, layouts: list[Layout]) -> None:
    owners, reader = owners_of(launch, layouts), here(WHOLE)
    peer = connect(reader, owners, lane)
    assert peer.lane == lane
    assert peer.shards == (0, 1)
    leases = [owner.grant(ids, watermark=80, term=60) for owner, ids in zip(owners, REMOTE, strict=True)]
    result = peer.pull(leases, [[ids] for ids in REMOTE], [LOCAL], start=5, stop=75).wait(30)
    np.testing.assert_array_equal(reader.cache, expected_of(reader.before, owners, REMOTE, 5, 75))
    sizes = [70 * 2 * one.layers * one.heads * one.width * 4 for one in layouts]
    assert result.bytes == sum(sizes)
    assert [(part.shard, part.lane, part.bytes) for part in result.shards] == [(0, lane, sizes[0]), (1, lane, sizes[1])]
    assert all(0 < part.seconds <= result.seconds for part in result.shards)
    peer.complete(leases)
    for owner, lease in zip(owners, leases, strict=True):
        assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "completed"]]


def test_one_lease_and_tables_for_all_shards(launch: Launch, here: MakeHere) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    lease = owners[0].grant(REMOTE[0], watermark=80, term=60)
    assert owners[1].grant(REMOTE[0], watermark=80, term=60, lease=[lease.slot, lease.epoch]) == lease
    peer = connect(reader, owners)
    peer.pull(lease, [REMOTE[0]], [LOCAL], stop=80).wait(30)
    np.testing.assert_array_equal(reader.cache, expected_of(reader.before, owners, [REMOTE[0]] * 2, 0, 80))


def test_a_part_of_a_shard_goes_to_each_of_several_readers(launch: Launch, here: MakeHere) -> None:
    """Three owners of two heads each, read by two of three: the one in the middle by both."""
    owners = owners_of(launch, [Layout(heads=2, first_head=first) for first in (0, 2, 4)])
    lease = owners[0].grant(REMOTE[0], watermark=80, term=60)
    for owner in owners[1:]:
        owner.grant(REMOTE[0], watermark=80, term=60, lease=[lease.slot, lease.epoch])
    for first, shards in ((0, (0, 1)), (3, (1, 2))):
        reader = here(Layout(heads=3, first_head=first))
        peer = connect(reader, owners)
        assert peer.shards == shards
        result = peer.pull(lease, [REMOTE[0]], [LOCAL], stop=80).wait(30)
        whole = np.concatenate([owner.layout.make(owner.seed) for owner in owners], axis=4)
        part = whole[..., first : first + 3, :]
        np.testing.assert_array_equal(reader.cache, after_pull(reader.before, part, LOCAL, REMOTE[0], 0, 80))
        assert [one.shard for one in result.shards] == list(shards)


def test_replicas_are_read_once_and_told_of_the_end(launch: Launch, here: MakeHere) -> None:
    same = Layout(replica=1)
    owners = [launch(name=f"replica {i}", seed=1, layout=same) for i in range(3)]
    reader = here(same)
    lease = owners[0].grant(REMOTE[0], watermark=80, term=60)
    for owner in owners[1:]:
        owner.grant(REMOTE[0], watermark=80, term=60, lease=[lease.slot, lease.epoch])
    # Which replica is read follows the reader's index, and only those that are named are connected besides.
    for index in range(4):
        few = connect(reader, owners, idle_shards=[2], reader_index=index)
        assert few.shards == (index % 3,)
        assert [bool(part.components) for part in few.maps] == [index % 3 == 0, index % 3 == 1, True]
        few.close()
    for wrong in ({"idle_shards": [3]}, {"idle_shards": [-1]}, {"reader_index": -1}):
        with pytest.raises(kt.ConfigError, match=next(iter(wrong))):
            connect(reader, owners, **wrong)
    peer = connect(reader, owners, idle_shards=True)
    assert len(peer.shards) == 1
    result = peer.pull(lease, [REMOTE[0]], [LOCAL], stop=80).wait(30)
    np.testing.assert_array_equal(reader.cache, after_pull(reader.before, same.make(1), LOCAL, REMOTE[0], 0, 80))
    assert result.bytes == 80 * 2 * same.layers * same.heads * same.width * 4
    idle = next(i for i in range(3) if i not in peer.shards)
    peer.complete(lease, readers=[0 if i == idle else 1 for i in range(3)])
    for number, owner in enumerate(owners):
        if number != idle:
            assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "completed"]]
    assert owners[idle].call("live") == 1


@pytest.mark.parametrize(
    ("layouts", "error", "words"),
    [
        (HEADS[:1], kt.PlanError, "head 1..3"),
        ([HEADS[1], HEADS[1]], kt.PlanError, "both hold"),
        ([HEADS[0], Layout(layers=2, heads=3, first_head=1, width=8)], kt.PlanError, "element"),
    ],
    ids=["one is missing", "twice", "another width"],
)
def test_shards_that_do_not_fit(
    launch: Launch, here: MakeHere, layouts: list[Layout], error: type[Exception], words: str
) -> None:
    owners, reader = owners_of(launch, layouts), here(WHOLE)
    with pytest.raises(error, match=words):
        connect(reader, owners)


def test_bad_arguments_are_named(launch: Launch, here: MakeHere) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    with pytest.raises(kt.ConfigError, match="no descriptor"):
        connect(reader, [])
    with pytest.raises(kt.ConfigError, match="shard 1 is there twice"):
        connect(reader, [owners[0], owners[0]])
    peer = connect(reader, owners)
    lease = owners[0].grant(REMOTE[0], watermark=80, term=60)
    with pytest.raises(kt.ConfigError, match="lease: 1 given, expected one for each of 2 shards"):
        peer.pull([lease], [REMOTE[:1], REMOTE[1:]], [LOCAL], stop=80)
    with pytest.raises(kt.ConfigError, match="readers: 3 given"):
        peer.complete(lease, readers=[1, 1, 1])
    with pytest.raises(kt.PlanError, match="local block table 0 names block 1 twice"):
        peer.pull(lease, [REMOTE[0]], [[1, 1, 2, 3, 4]], stop=80)
    np.testing.assert_array_equal(reader.cache, reader.before)


def test_an_empty_map_reads_from_no_shard(owner: Remote) -> None:
    with kt.Engine(name="reader") as engine:
        engine.publish(kt.TensorMap([]))
        with pytest.raises(kt.ConfigError, match="this engine's map is empty"):
            engine.connect([owner.descriptor])


def test_it_waits_for_the_slowest_shard_and_can_be_cancelled(launch: Launch, here: MakeHere, lane: str) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    leases = [
        owner.grant(ids, watermark=80 if i == 0 else 0)
        for i, (owner, ids) in enumerate(zip(owners, REMOTE, strict=True))
    ]
    peer = connect(reader, owners, lane)
    tables = [[ids] for ids in REMOTE]
    pull = peer.pull(leases, tables, [LOCAL], stop=80)
    with pytest.raises(kt.WaitTimeout):
        pull.wait(0.3)
    owners[1].call("raise_watermark", lease=[leases[1].slot, leases[1].epoch], positions=79)
    given_up = peer.pull(leases, tables, [LOCAL], stop=80)
    given_up.cancel()
    with pytest.raises(kt.PullCancelled):
        given_up.wait(0)
    until(lambda: given_up.quiet, "it is quiet")
    owners[1].call("raise_watermark", lease=[leases[1].slot, leases[1].epoch], positions=80)
    pull.wait(30)
    np.testing.assert_array_equal(reader.cache, expected_of(reader.before, owners, REMOTE, 0, 80))


def test_a_revoked_lease_of_one_shard_fails_it(launch: Launch, here: MakeHere, lane: str) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    leases = [owner.grant(ids, watermark=80, term=60) for owner, ids in zip(owners, REMOTE, strict=True)]
    peer = connect(reader, owners, lane)
    owners[1].call("revoke", lease=[leases[1].slot, leases[1].epoch])
    pull = peer.pull(leases, [[ids] for ids in REMOTE], [LOCAL], stop=80)
    with pytest.raises(kt.LeaseExpired):
        pull.wait(30)
    until(lambda: pull.quiet, "it is quiet")
    assert peer.alive


def test_a_held_lease_is_renewed_at_every_shard_until_it_is_dropped(launch: Launch, here: MakeHere) -> None:
    owners, reader = owners_of(launch, HEADS), here(WHOLE)
    leases = [owner.grant(ids, watermark=80, term=1.0) for owner, ids in zip(owners, REMOTE, strict=True)]
    peer = connect(reader, owners)
    peer.hold(leases, term=1.0)
    time.sleep(3)
    peer.affirm(leases)
    peer.pull(leases, [[ids] for ids in REMOTE], [LOCAL], stop=80).wait(30)
    peer.drop(leases)
    for owner, lease in zip(owners, leases, strict=True):
        assert owner.call("wait_ended", timeout=30.0) == [[lease.slot, lease.epoch, "expired"]]


@pytest.mark.parametrize("end", ["kill", "freeze"])
def test_a_shard_that_dies_or_stands_still_fails_it(launch: Launch, here: MakeHere, lane: str, end: str) -> None:
    """In the middle of a pull: its other parts are ended too, and it is quiet in the usual bounds."""
    half = [Layout(layers=4, blocks=256, heads=4, width=32, first_head=first) for first in (0, 4)]
    owners, reader = owners_of(launch, half), here(BIG)
    ids = list(range(256))
    lease = owners[0].grant(ids, watermark=4096)
    owners[1].grant(ids, watermark=0, lease=[lease.slot, lease.epoch])
    peer = connect(reader, owners, lane)
    pull = peer.pull(lease, [ids], [ids], stop=4096, timeout=3)
    getattr(owners[1].process, end)()
    began = time.monotonic()
    with pytest.raises(kt.PeerLost if end == "kill" else (kt.PullTimeout, kt.PeerLost)):
        pull.wait(30)
    until(lambda: pull.quiet, "it is quiet")
    assert time.monotonic() - began < 20


def test_lanes_differ_from_shard_to_shard(launch: Launch, here: MakeHere) -> None:
    owners = [
        launch(name="near", seed=1, layout=HEADS[0]),
        launch(name="far", seed=2, layout=HEADS[1], lanes=["message"]),
    ]
    reader = here(WHOLE)
    peer = connect(reader, owners)
    assert peer.lane == f"{LANES[0]}+message" or peer.lane.endswith("+message")
    assert peer.lanes == ("message",)
    leases = [owner.grant(ids, watermark=80, term=60) for owner, ids in zip(owners, REMOTE, strict=True)]
    result = peer.pull(leases, [[ids] for ids in REMOTE], [LOCAL], stop=80).wait(30)
    assert result.lane == peer.lane
    np.testing.assert_array_equal(reader.cache, expected_of(reader.before, owners, REMOTE, 0, 80))
    with pytest.raises(kt.LaneError, match="did not prove itself"):
        peer.pull(leases, [[ids] for ids in REMOTE], [LOCAL], stop=80, lane="cma")
