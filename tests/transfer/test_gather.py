# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Reads of several peers as one pull, tables that a pull leaves out, and grants of ranges."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .harness import until, wire
from .layout import BIG, after_pull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from .conftest import Here, Launch, MakeHere
    from .harness import Remote

HERE = [[0, 1, 2], [9, 8]]
THERE = [[7, 3, 3], [20, 4]]


def owners_of(launch: Launch) -> list[Remote]:
    return [launch(name=f"owner {seed}", seed=seed) for seed in (1, 2)]


def parts_of(reader: Here, owners: list[Remote], lane: str | None = None) -> list[kt.Part]:
    return [
        kt.Part(
            reader.connect(owner, lane), owner.grant(there, watermark=16 * len(there)), [there], [here], 16 * len(here)
        )
        for owner, there, here in zip(owners, THERE, HERE, strict=True)
    ]


def test_bytes_of_all_peers(launch: Launch, reader: Here, lane: str) -> None:
    owners = owners_of(launch)
    result = kt.gather(parts_of(reader, owners, lane)).wait(30)
    expected = reader.before
    for owner, there, here in zip(owners, THERE, HERE, strict=True):
        expected = after_pull(expected, owner.layout.make(owner.seed), here, there, 0, 16 * len(here))
    np.testing.assert_array_equal(reader.cache, expected)
    assert [(part.shard, part.lane) for part in result.shards] == [(0, lane), (1, lane)]
    assert result.bytes == sum(part.bytes for part in result.shards)


def test_empty_parts_are_nobodys(launch: Launch, reader: Here) -> None:
    owners = owners_of(launch)
    parts = parts_of(reader, owners)
    owners[0].process.kill()
    until(lambda: not parts[0].peer.alive, "the loss is known")
    result = kt.gather([parts[0]._replace(local=[[]], remote=[[]], stop=0), parts[1]]).wait(30)
    assert [part.shard for part in result.shards] == [1]
    nothing = kt.gather([parts[0]._replace(stop=0)])
    assert nothing.done
    assert nothing.quiet
    assert (nothing.wait(1).bytes, nothing.result().shards) == (0, [])
    assert 0 <= nothing.result().seconds < 1
    assert asyncio.run(_awaited(kt.gather([]))).bytes == 0


async def _awaited(pull: kt.Pull) -> kt.PullResult:
    return await pull


def test_the_first_that_fails_ends_all(launch: Launch, here: MakeHere, tmp_path: Path) -> None:
    owners, reader = [launch(seed=seed, layout=BIG) for seed in (1, 2)], here(BIG)
    halves = [list(range(128)), list(range(128, 256))]
    parts = [
        kt.Part(reader.connect(owner, "message"), owner.grant(half, watermark=2048), [half], [half], 2048)
        for owner, half in zip(owners, halves, strict=True)
    ]
    stall = tmp_path / "stalled"
    owners[0].call("stall_next_pull", file=str(stall))
    pull = kt.gather(parts, timeout=60)
    until(stall.exists, "the first owner stands still")
    assert not pull.done
    pull.cancel()
    with pytest.raises(kt.PullCancelled):
        pull.wait(1)
    # Only the second owner can end this one, which the first keeps waiting.
    owners[1].call("revoke", lease=wire(parts[1].lease))
    late = kt.gather(parts, timeout=60)
    with pytest.raises(kt.LeaseExpired):
        late.wait(30)
    stall.unlink()
    until(lambda: pull.quiet and late.quiet, "nothing can land any more")


def test_nothing_is_started_unless_all_is_planned(launch: Launch, reader: Here) -> None:
    owners = owners_of(launch)
    parts = parts_of(reader, owners)
    with pytest.raises(kt.PlanError, match="remote block table 0 entry 0 is 99999"):
        kt.gather([parts[0], parts[1]._replace(remote=[[99999, 1]])])
    np.testing.assert_array_equal(reader.cache, reader.before)
    with pytest.raises(kt.PlanError, match="stop=3 is not past start=4"):
        kt.gather([parts[0]._replace(start=4, stop=3)])
    with pytest.raises(kt.ConfigError, match="timeout=0"):
        kt.gather(parts, timeout=0)
    sharded = reader.engine.connect([owners[0].descriptor])
    with pytest.raises(kt.ConfigError, match="part 1 is of a sharded peer"):
        kt.gather([parts[0], parts[1]._replace(peer=sharded)])
    owners[1].process.kill()
    until(lambda: not parts[1].peer.alive, "the loss is known")
    with pytest.raises(kt.PeerLost, match="shard 1 went away"):
        kt.gather(parts)
    np.testing.assert_array_equal(reader.cache, reader.before)


class Pair:
    """Two engines here, with two matrices of their own tables."""

    def __init__(self) -> None:
        self.theirs = {"a": _numbers(50, 3, 1), "b": _numbers(50, 5, 2)}
        self.ours = {"a": np.zeros((20, 3), np.int64), "b": np.zeros((20, 5), np.int64)}
        self.owner, self.reader = kt.Engine(name="owner"), kt.Engine(name="reader")
        for engine, arrays in ((self.owner, self.theirs), (self.reader, self.ours)):
            components = [
                engine.register_tensor(name, array, ("block", "element"), table=table)
                for table, (name, array) in enumerate(arrays.items())
            ]
            assert [component.table for component in components] == [0, 1]
            engine.publish(kt.TensorMap(components))
        self.peer = self.reader.connect(self.owner.descriptor())


def _numbers(rows: int, width: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, 1 << 62, size=(rows, width))


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.reader.close()
    made.owner.close()


def test_a_pull_leaves_out_tables(pair: Pair, lane: str) -> None:
    if lane not in pair.peer.lanes:
        lane = "message"
    lease = pair.owner.grant(None, watermark=100)
    ids = [49, 0, 7]
    result = pair.peer.pull(lease, [None, ids], [None, [3, 4, 5]], stop=3, lane=lane).wait(30)
    assert result.bytes == 3 * 5 * 8
    np.testing.assert_array_equal(pair.ours["b"][3:6], pair.theirs["b"][ids])
    assert not pair.ours["a"].any()
    pair.peer.pull(lease, [np.array(ids), ids], [np.array([1, 2, 0]), None], stop=3, lane=lane).wait(30)
    np.testing.assert_array_equal(pair.ours["a"][[1, 2, 0]], pair.theirs["a"][ids])
    assert pair.peer.pull(lease, [None, None], [None, None], stop=3, lane=lane).wait(30).bytes == 0
    with pytest.raises(kt.PlanError, match="remote block table 1 has 0 entries"):
        pair.peer.pull(lease, [ids, None], [[1, 2, 3], [1, 2, 3]], stop=3)
    whole = kt.gather([(pair.peer, lease, [ids, None], [[7, 8, 9], None], 3)], verify=True).wait(30)
    assert whole.bytes == 3 * 3 * 8


def test_a_range_is_granted_like_its_blocks(pair: Pair) -> None:
    """And nothing beyond it: the owner of the message lane looks."""
    lease = pair.owner.grant([range(10, 20), range(0, 50, 7)], watermark=100)
    pair.owner.grant([range(30, 31), [48]], lease=lease)
    for table, good, bad in ((0, [10, 19, 30], 20), (1, [0, 49, 48], 1)):
        remote, local = [None, None], [None, None]
        remote[table], local[table] = good, [0, 1, 2]  # type: ignore[call-overload]
        pair.peer.pull(lease, remote, local, stop=3, lane="message").wait(30)
        name = "ab"[table]
        np.testing.assert_array_equal(pair.ours[name][:3], pair.theirs[name][good])
        remote[table] = [good[0], bad, good[1]]  # type: ignore[call-overload]
        with pytest.raises(kt.TransportError, match="outside the blocks of its lease"):
            pair.peer.pull(lease, remote, local, stop=3, lane="message").wait(30)
    assert pair.owner.counters()["refused_runs"] == 2


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ([range(51)], r"tables\[0\] names blocks 0 to 50; the map has 50 blocks"),
        ([range(-1, 3)], r"tables\[0\] begins with block -1"),
        ([[], [], range(3)], r"tables\[2\]: the published map has no such block table"),
        (range(3), "tables is one range, expected a sequence of tables"),
    ],
)
def test_ranges_that_the_map_does_not_have_are_refused(pair: Pair, tables: object, told: str) -> None:
    with pytest.raises(kt.PlanError, match=told):
        pair.owner.grant(tables)  # type: ignore[arg-type]
    assert pair.owner.live_leases == 0


def test_nothing_is_granted_of_no_map() -> None:
    with kt.Engine() as engine, pytest.raises(kt.PlanError, match="no map is published yet"):
        engine.grant(None)


def test_a_table_is_a_number() -> None:
    with kt.Engine() as engine, pytest.raises(kt.ConfigError, match="table=-1, expected a number from 0"):
        engine.register_tensor("a", np.zeros((2, 2)), ("block", "element"), table=-1)
