# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Caches whose bytes lie in another order on the two sides, so that they agree in small pieces only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .harness import Remote, until, wire
from .layout import BIG, PLANAR_NHD, Layout, after_pull
from .test_crash import STREAMS, stall_next_pull, stalled

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Here, Launch, MakeHere

PLANAR_HND = "plbhte"
INTERLEAVED = "lbtphe"  # a token's keys beside its values
SPREAD = Layout(order=PLANAR_HND)
BIG_HND = replace(BIG, order=PLANAR_HND)
BLOCKS = list(range(BIG.blocks))
STOP = BIG.blocks * BIG.block_size


def assert_pulled(here: Here, owner: Remote, local: list[int], remote: list[int], start: int, stop: int) -> None:
    expected = after_pull(here.before, owner.layout.make(owner.seed), local, remote, start, stop)
    np.testing.assert_array_equal(here.cache, expected)


@pytest.mark.parametrize(
    ("theirs", "ours", "stretch"),
    [
        (PLANAR_NHD, PLANAR_HND, 2048),
        (PLANAR_HND, PLANAR_NHD, 2048),
        (PLANAR_NHD, INTERLEAVED, 2048),
        (INTERLEAVED, PLANAR_NHD, 4096),
        (INTERLEAVED, PLANAR_HND, 4096),
    ],
)
def test_bytes_equal_numpy_whatever_the_order(
    launch: Launch, here: MakeHere, lane: str, theirs: str, ours: str, stretch: int
) -> None:
    owner, reader = launch(layout=Layout(order=theirs)), here(Layout(order=ours))
    peer = reader.connect(owner, lane)
    assert f"read stretches of {stretch} bytes and put them in order here" in peer.plan_summary
    remote, local = [7, 3, 4, 5, 20], [1, 30, 31, 8, 2]
    result = peer.pull(owner.grant(remote, watermark=80), [remote], [local], start=5, stop=75).wait(30)
    assert_pulled(reader, owner, local, remote, 5, 75)
    assert result.bytes == 70 * 2 * owner.layout.layers * owner.layout.heads * owner.layout.width * 4


@pytest.mark.parametrize(("theirs", "ours"), [(16, 4), (4, 16)])
def test_block_sizes_and_order_differ(launch: Launch, here: MakeHere, lane: str, theirs: int, ours: int) -> None:
    owner = launch(layout=Layout(block_size=theirs, blocks=64))
    reader = here(Layout(block_size=ours, blocks=64, order=PLANAR_HND))
    remote, local = (np.random.default_rng(3).permutation(64)[: 64 // size].tolist() for size in (theirs, ours))
    lease = owner.grant(remote, watermark=64)
    reader.connect(owner, lane).pull(lease, [remote], [local], start=3, stop=61).wait(30)
    assert_pulled(reader, owner, local, remote, 3, 61)


def test_a_half_of_the_heads(launch: Launch, here: MakeHere, lane: str) -> None:
    """What lies together at the owner is less than a block then."""
    owner = launch(layout=Layout(heads=4))
    reader = here(Layout(heads=2, first_head=2, order=PLANAR_HND))
    lease = owner.grant([9, 8, 3], watermark=48)
    reader.connect(owner, lane).pull(lease, [[9, 8, 3]], [[0, 1, 2]], stop=48).wait(30)
    whole = owner.layout.make(owner.seed)[..., 2:, :]
    np.testing.assert_array_equal(reader.cache, after_pull(reader.before, whole, [0, 1, 2], [9, 8, 3], 0, 48))


def test_a_hole_is_never_written(launch: Launch, here: MakeHere, lane: str) -> None:
    owner, reader = launch(), here(SPREAD)
    lease = owner.grant([4, 5, 6], watermark=48)
    reader.connect(owner, lane).pull(lease, [[4, 5, 6]], [[10, -1, 12]], stop=48).wait(30)
    expected = after_pull(reader.before, owner.layout.make(owner.seed), [10, 11, 12], [4, 5, 6], 0, 48)
    expected[:, :, 11] = reader.before[:, :, 11]
    np.testing.assert_array_equal(reader.cache, expected)


def test_a_big_pull(launch: Launch, here: MakeHere, lane: str) -> None:
    owner, reader = launch(layout=BIG, message_streams=STREAMS), here(BIG_HND, message_streams=STREAMS)
    random = np.random.default_rng(5)
    remote, local = (random.permutation(BIG.blocks) for _ in range(2))
    lease = owner.grant(remote.tolist(), watermark=STOP)
    result = reader.connect(owner, lane).pull(lease, [remote], [local], stop=STOP).wait(60)
    assert result.bytes == reader.cache.nbytes
    expected = np.empty_like(reader.cache)
    expected[:, :, local] = owner.layout.make(owner.seed)[:, :, remote]
    np.testing.assert_array_equal(reader.cache, expected)


@pytest.mark.parametrize("lane", ["shm", "cma", "message"])
def test_more_pieces_than_an_owner_can_be_asked_for(launch: Launch, here: MakeHere, lane: str) -> None:
    """It is asked for what they make up."""
    many = Layout(layers=8, blocks=520, heads=8, width=1)
    owner, reader = launch(layout=many), here(replace(many, order=PLANAR_HND))
    blocks = list(range(many.blocks))
    lease = owner.grant(blocks, watermark=520 * 16)
    result = reader.connect(owner, lane).pull(lease, [blocks], [blocks], stop=520 * 16).wait(60)
    assert result.runs > 1 << 20
    np.testing.assert_array_equal(reader.cache, owner.layout.make(owner.seed))


def test_only_what_is_leased_is_read(launch: Launch, here: MakeHere) -> None:
    owner, reader = launch(), here(SPREAD)
    peer = reader.connect(owner, "message")
    lease = owner.grant([4, 5], watermark=64)
    with pytest.raises(kt.TransportError, match="lease"):
        peer.pull(lease, [[4, 5, 6]], [[0, 1, 2]], stop=48).wait(30)
    assert owner.call("counters")["refused_runs"] == 1
    np.testing.assert_array_equal(reader.cache, reader.before)
    peer.pull(lease, [[4, 5]], [[0, 1]], stop=32).wait(30)
    assert_pulled(reader, owner, [0, 1], [4, 5], 0, 32)


@pytest.mark.parametrize(
    ("how", "failure"),
    [("cancel", kt.PullCancelled), ("deadline", kt.PullTimeout), ("revoke", kt.LeaseExpired), ("kill", kt.PeerLost)],
)
def test_nothing_lands_once_it_is_quiet(
    launch: Launch, here: MakeHere, lane: str, how: str, failure: type[Exception], tmp_path: Path
) -> None:
    owner, reader = launch(layout=BIG, message_streams=STREAMS), here(BIG_HND, message_streams=STREAMS)
    peer = reader.connect(owner, lane)
    lease = owner.grant(BLOCKS, watermark=STOP)
    stall_next_pull(owner, lane, tmp_path / "stall")
    running = peer.pull(lease, [BLOCKS], [BLOCKS], stop=STOP, timeout=2.0 if how == "deadline" else 60.0)
    stalled(tmp_path / "stall")
    if how == "cancel":
        running.cancel()
    elif how == "kill":
        owner.process.kill()
    elif how == "revoke":
        owner.call("revoke_and_overwrite", lease=wire(lease), blocks=BLOCKS, value=7)
        (tmp_path / "stall").unlink()
    with pytest.raises(failure):
        running.wait(30)
    until(lambda: running.quiet, "nothing can land any more")
    reader.cache[:] = 42
    (tmp_path / "stall").unlink(missing_ok=True)
    following = launch(name="successor", seed=owner.seed, layout=BIG) if how == "kill" else owner
    again = reader.connect(following, lane) if how == "kill" else peer
    first = BLOCKS[:9]
    # What was still under way would land before this one ends.
    again.pull(following.grant(first, watermark=STOP), [first], [first], stop=9 * BIG.block_size).wait(30)
    assert (np.delete(reader.cache, first, axis=2) == 42).all()


@pytest.mark.parametrize("lane", ["shm", "cma", "message"])
def test_it_takes_little_memory(launch: Launch, lane: str) -> None:
    """However much is pulled: neither a list of all pieces nor the bytes themselves are kept."""
    owner, reader = launch(layout=BIG), launch(name="reader", layout=BIG_HND)
    peer = reader.call("connect", descriptor=owner.descriptor.hex(), lanes=[lane])["incarnation"]
    lease = wire(owner.grant(BLOCKS, watermark=STOP))
    reader.call("pull", peer=peer, lease=lease, remote=BLOCKS[:1], local=BLOCKS[:1], stop=BIG.block_size)
    before = reader.call("forget_memory_peak")
    reader.call("pull", peer=peer, lease=lease, remote=BLOCKS, local=BLOCKS, stop=STOP)
    assert reader.call("memory_peak") - before < 4 << 20
