# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Bytes: what a pull leaves in the destination, against NumPy; and how a pull is waited for and given up."""

from __future__ import annotations

import asyncio
import select
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import kvtransfer as kt

from .conftest import LANES
from .harness import Remote, ctrl_c_soon, until, wire
from .layout import BIG, Layout, after_pull

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Here, Launch, MakeHere


def assert_pulled(here: Here, owner: Remote, local: list[int], remote: list[int], start: int, stop: int) -> None:
    expected = after_pull(here.before, owner.layout.make(owner.seed), local, remote, start, stop)
    np.testing.assert_array_equal(here.cache, expected)


def test_bytes_equal_numpy_and_nothing_else_is_touched(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    assert peer.lane == lane
    remote, local = [7, 3, 4, 5, 20], [1, 30, 31, 8, 2]
    lease = owner.grant(remote, watermark=80)
    result = peer.pull(lease, [remote], [local], start=5, stop=75).wait(30)
    assert_pulled(reader, owner, local, remote, 5, 75)
    assert result.bytes == 70 * 2 * owner.layout.layers * owner.layout.heads * owner.layout.width * 4
    assert result.lane == lane
    assert result.runs > 0
    assert result.seconds > 0


@pytest.mark.parametrize(
    "table",
    [
        list,
        tuple,
        np.array,
        lambda ids: np.array(ids, np.int32),
        lambda ids: np.array(ids, np.uint64),
        lambda ids: np.array(ids, ">i8"),
        lambda ids: np.repeat(np.array(ids), 2)[::2],
        lambda ids: np.array([ids, ids], np.int64)[1],
        lambda ids: array("q", ids),
    ],
    ids=["list", "tuple", "int64", "int32", "uint64", "big-endian", "strided", "row", "array"],
)
def test_tables_of_any_kind(owner: Remote, reader: Here, table: Callable[[list[int]], Any]) -> None:
    """Some are read where they are, others are converted first."""
    peer = reader.connect(owner)
    remote, local = [7, 3, 4, 5, 20], [1, 30, 31, 8, 2]
    lease = owner.grant(remote, watermark=80)
    peer.pull(lease, [table(remote)], (table(local),), stop=80).wait(30)
    assert_pulled(reader, owner, local, remote, 0, 80)


def test_a_permuted_copy_is_noticed(owner: Remote, reader: Here, lane: str) -> None:
    """The comparison above can fail: the same pull with two blocks exchanged does not pass it."""
    remote, local = [7, 3, 4], [1, 30, 31]
    lease = owner.grant(remote, watermark=48)
    reader.connect(owner, lane).pull(lease, [[3, 7, 4]], [local], stop=48).wait(30)
    with pytest.raises(AssertionError, match="not equal"):
        assert_pulled(reader, owner, local, remote, 0, 48)
    assert_pulled(reader, owner, local, [3, 7, 4], 0, 48)


def test_different_block_sizes(launch: Launch, here: MakeHere, lane: str) -> None:
    owner = launch(layout=Layout(block_size=16))
    reader = here(Layout(block_size=4, blocks=64))
    remote, local = [9, 2], [50, 3, 4, 5, 60, 61, 1, 0]
    lease = owner.grant(remote, watermark=32)
    reader.connect(owner, lane).pull(lease, [remote], [local], start=3, stop=30).wait(30)
    assert_pulled(reader, owner, local, remote, 3, 30)


def test_a_big_pull(launch: Launch, here: MakeHere, lane: str) -> None:
    owner, reader = launch(layout=BIG), here(BIG)
    random = np.random.default_rng(5)
    remote, local = (random.permutation(BIG.blocks) for _ in range(2))
    lease = owner.grant(remote.tolist(), watermark=BIG.blocks * BIG.block_size)
    result = reader.connect(owner, lane).pull(lease, [remote], [local], stop=BIG.blocks * BIG.block_size).wait(60)
    assert result.bytes == reader.cache.nbytes
    expected = np.empty_like(reader.cache)
    expected[:, :, local] = owner.layout.make(owner.seed)[:, :, remote]
    np.testing.assert_array_equal(reader.cache, expected)


def test_several_pulls_at_once(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    leases = [owner.grant([block], watermark=16) for block in range(16)]
    pulls = [peer.pull(lease, [[block]], [[31 - block]], stop=16) for block, lease in enumerate(leases)]
    for pull in reversed(pulls):
        assert pull.wait(30).bytes > 0
    remote = list(range(16))
    assert_pulled(reader, owner, [31 - block for block in remote], remote, 0, 256)


def test_every_lane_serves_one_peer(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner)
    assert peer.lanes == LANES
    assert peer.lane == "shm"
    lease = owner.grant([4, 5, 6, 7], watermark=64)
    for local, lane in enumerate(LANES):
        assert peer.pull(lease, [[4 + local]], [[local]], stop=16, lane=lane).wait(30).lane == lane
    assert_pulled(reader, owner, [0, 1, 2, 3], [4, 5, 6, 7], 0, 64)


def test_a_hole_is_never_written(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([4, 5, 6], watermark=48)
    reader.connect(owner, lane).pull(lease, [[4, 5, 6]], [[10, -1, 12]], stop=48).wait(30)
    whole = owner.layout.make(owner.seed)
    expected = reader.before.copy()
    expected[:, :, 10], expected[:, :, 12] = whole[:, :, 4], whole[:, :, 6]
    np.testing.assert_array_equal(reader.cache, expected)


def test_wait_timeout_leaves_the_pull_running(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1])
    pull = reader.connect(owner, lane).pull(lease, [[1]], [[2]], stop=16)
    with pytest.raises(kt.WaitTimeout, match="still running"):
        pull.wait(0.2)
    assert not pull.done
    assert not pull.poll()
    with pytest.raises(kt.InvalidState, match="still running"):
        pull.result()
    owner.call("raise_watermark", lease=wire(lease), positions=16)
    assert pull.wait(30).bytes > 0
    assert pull.done
    assert pull.quiet
    assert not pull.cancelled
    assert_pulled(reader, owner, [2], [1], 0, 16)


def test_the_pull_has_a_deadline_of_its_own(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1], watermark=15)
    pull = reader.connect(owner, lane).pull(lease, [[1]], [[2]], stop=16, timeout=0.3)
    with pytest.raises(kt.PullTimeout):
        pull.wait(30)
    until(lambda: pull.quiet, "a pull that timed out becomes quiet")


def test_a_signal_ends_a_wait_and_leaves_the_pull_running(owner: Remote, reader: Here) -> None:
    pull = reader.connect(owner, "shm").pull(owner.grant([1]), [[1]], [[2]], stop=16)
    with ctrl_c_soon(), pytest.raises(KeyboardInterrupt):
        pull.wait(20)
    assert not pull.done
    assert "running" in repr(pull)


def test_its_descriptor_is_readable_once_it_is_done(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1])
    pull = reader.connect(owner, lane).pull(lease, [[1]], [[2]], stop=16)
    assert select.select([pull.fileno()], [], [], 0.1)[0] == []
    owner.call("raise_watermark", lease=wire(lease), positions=16)
    assert select.select([pull.fileno()], [], [], 20)[0] == [pull.fileno()]
    assert pull.done
    assert "done" in repr(pull)


def test_await(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    late = owner.grant([1])
    ready = owner.grant([2], watermark=16)

    async def scenario() -> list[kt.PullResult]:
        waiting = peer.pull(late, [[1]], [[0]], stop=16)

        async def one() -> kt.PullResult:
            return await waiting

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(one(), 0.2)  # cancels the task, not the pull
        assert not waiting.done
        twice = [asyncio.create_task(one()) for _ in range(2)]
        first = await peer.pull(ready, [[2]], [[1]], stop=16)
        await asyncio.to_thread(owner.call, "raise_watermark", lease=wire(late), positions=16)
        return [first, *await asyncio.wait_for(asyncio.gather(*twice), 30)]

    results = asyncio.run(scenario())
    assert [result.bytes for result in results] == [results[0].bytes] * 3
    assert_pulled(reader, owner, [0, 1], [1, 2], 0, 32)


def test_await_raises_the_failure(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1])
    pull = reader.connect(owner, lane).pull(lease, [[1]], [[0]], stop=16)

    async def scenario() -> None:
        task = asyncio.ensure_future(_awaited(pull))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(owner.call, "revoke", lease=wire(lease))
        await asyncio.wait_for(task, 30)

    with pytest.raises(kt.LeaseExpired):
        asyncio.run(scenario())


async def _awaited(pull: kt.Pull) -> kt.PullResult:
    return await pull


def test_cancel_leaves_the_destination_quiet(owner: Remote, reader: Here, lane: str) -> None:
    lease = owner.grant([1, 2])
    pull = reader.connect(owner, lane).pull(lease, [[1, 2]], [[8, 9]], stop=32)
    pull.cancel()
    assert pull.done
    assert pull.cancelled
    with pytest.raises(kt.PullCancelled):
        pull.result()
    until(lambda: pull.quiet, "a cancelled pull becomes quiet")
    reader.cache[:] = 42
    owner.call("raise_watermark", lease=wire(lease), positions=32)
    with pytest.raises(kt.PullCancelled):
        pull.wait(0.5)
    pull.cancel()  # no-op
    assert (reader.cache == 42).all()


def test_cancel_while_bytes_flow(launch: Launch, here: MakeHere, lane: str) -> None:
    owner, reader = launch(layout=BIG), here(BIG)
    peer = reader.connect(owner, lane)
    blocks = list(range(BIG.blocks))
    lease = owner.grant(blocks, watermark=BIG.blocks * BIG.block_size)
    pull = peer.pull(lease, [blocks], [blocks], stop=BIG.blocks * BIG.block_size)
    pull.cancel()
    until(lambda: pull.quiet, "a cancelled pull becomes quiet")
    reader.cache[:] = 42
    # The engine goes on; whatever of the first pull was under way would land before this one ends.
    again = peer.pull(lease, [[3]], [[5]], stop=16)
    again.wait(30)
    reader.before = np.full_like(reader.cache, 42)
    assert_pulled(reader, owner, [5], [3], 0, 16)


def test_bad_tables_are_refused_before_anything_moves(owner: Remote, reader: Here, lane: str) -> None:
    peer = reader.connect(owner, lane)
    lease = owner.grant([1, 2], watermark=32)
    with pytest.raises(kt.PlanError, match="remote"):
        peer.pull(lease, [[1.5]], [[0]], stop=16)  # type: ignore[list-item]
    with pytest.raises(kt.PlanError, match="one array"):
        peer.pull(lease, np.array([1]), [[0]], stop=16)  # type: ignore[arg-type]
    with pytest.raises(kt.PlanError, match="stop=0"):
        peer.pull(lease, [[1]], [[0]], stop=0)
    with pytest.raises(kt.PlanError):
        peer.pull(lease, [[1]], [[0]], stop=17)  # one block is 16 positions
    with pytest.raises(kt.PlanError):
        peer.pull(lease, [[1]], [[32]], stop=16)
    with pytest.raises(kt.PlanError):
        peer.pull(lease, [[1, 2]], [[3, 3]], stop=32)  # a block written twice
    with pytest.raises(kt.PlanError):
        peer.pull(lease, [[-1]], [[3]], stop=16)  # a wanted block has no source
    with pytest.raises(kt.ConfigError, match="readers=0"):
        peer.complete(lease, readers=0)
    with pytest.raises(kt.ConfigError, match="lane"):
        peer.pull(lease, [[1]], [[0]], stop=16, lane="carrier pigeon")
    np.testing.assert_array_equal(reader.cache, reader.before)


def test_a_lane_that_was_not_permitted_is_refused(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner, "message")
    lease = owner.grant([1], watermark=16)
    with pytest.raises(kt.LaneError, match="cma"):
        peer.pull(lease, [[1]], [[0]], stop=16, lane="cma")


def test_message_lane_refuses_what_is_not_leased(owner: Remote, reader: Here) -> None:
    peer = reader.connect(owner, "message")
    lease = owner.grant([4, 5], watermark=64)
    with pytest.raises(kt.TransportError, match="lease"):
        peer.pull(lease, [[4, 6]], [[0, 1]], stop=32).wait(30)
    assert owner.call("counters")["refused_runs"] == 1
    np.testing.assert_array_equal(reader.cache, reader.before)
    peer.pull(lease, [[4, 5]], [[0, 1]], stop=32).wait(30)  # and nothing is broken by it
    assert_pulled(reader, owner, [0, 1], [4, 5], 0, 32)
