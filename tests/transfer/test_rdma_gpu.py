# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Lane rdma and GPU memory: what is refused, with which words, and what goes on. No GPU and no network card are used:
memory registered as CUDA memory is host memory here, which a UCX without CUDA refuses like any other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer import testing

from .layout import AXES, RDMA_HERE, Cache, Layout, after_pull

if TYPE_CHECKING:
    from collections.abc import Iterator

CUDA, HOST = kt.MemoryKind.CUDA, kt.MemoryKind.HOST


class Half:
    """An engine whose k is of one kind of memory and whose v of another; `publish`: those it has in its map."""

    def __init__(
        self, seed: int, k: kt.MemoryKind, v: kt.MemoryKind, names: str = "kv", *, staging: bool = False
    ) -> None:
        self.engine = kt.Engine(kt.EngineConfig(rdma_staging=staging), name=f"k {k.name}, v {v.name}")
        self.cache: Cache = Layout().make(seed)
        components = []
        for name, kind, part in zip("kv", (k, v), self.cache, strict=True):
            axes = [kt.Axis(*axis) for axis in zip(AXES, part.shape, part.strides, strict=True)]
            # Engine.register would look what memory it is.
            region = self.engine._native.register_region(part.ctypes.data, part.nbytes, kind)
            if name in names:
                components.append(kt.Component(name, axes, dtype="uint32", item_bytes=4, region=region, memory=kind))
        self.engine.publish(kt.TensorMap(components))

    def connect(self, owner: Half, *lanes: str) -> kt.Peer:
        return self.engine.connect(owner.engine.descriptor(), lanes=lanes or ("rdma",))

    def read(self, owner: Half) -> kt.PullResult:
        lease = owner.engine.grant([[3, 4]], watermark=32)
        return self.connect(owner).pull(lease, [[3, 4]], [[8, 9]], stop=32).wait(30)


class Make(Protocol):
    def __call__(
        self, seed: int, k: kt.MemoryKind, v: kt.MemoryKind, names: str = ..., *, staging: bool = ...
    ) -> Half: ...


@pytest.fixture
def host_as_cuda() -> Iterator[None]:
    testing.cuda_regions("host")
    yield
    testing.rdma_over(RDMA_HERE)
    testing.cuda_regions("real")


@pytest.fixture
def claimed_as_cuda() -> Iterator[None]:
    testing.cuda_regions("claimed")
    yield
    testing.cuda_regions("real")


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes engines and closes them."""
    made: list[Half] = []

    def one(seed: int, k: kt.MemoryKind, v: kt.MemoryKind, names: str = "kv", *, staging: bool = False) -> Half:
        made.append(Half(seed, k, v, names, staging=staging))
        return made[-1]

    yield one
    for half in made:
        half.engine.close()


@pytest.mark.usefixtures("host_as_cuda")
@pytest.mark.parametrize("theirs", [HOST, CUDA])
@pytest.mark.parametrize("ours", [HOST, CUDA])
def test_every_pair_of_memories_is_carried(make: Make, theirs: kt.MemoryKind, ours: kt.MemoryKind) -> None:
    owner, reader = make(1, theirs, HOST), make(2, ours, HOST)
    assert "rdma" not in owner.engine.lane_problems
    assert reader.read(owner).lane == "rdma"
    expected = after_pull(Layout().make(2), owner.cache, [8, 9], [3, 4], 0, 32)
    np.testing.assert_array_equal(reader.cache, expected)


REASON = r"region 0 is CUDA memory, and this UCX, with the transports cma,posix, has no CUDA\..*nvidia_peermem"


@pytest.mark.usefixtures("claimed_as_cuda")
def test_cuda_memory_is_refused_with_the_region_the_reason_and_a_remedy(make: Make) -> None:
    owner, reader = make(1, CUDA, HOST), make(2, HOST, HOST)
    assert re.search(REASON, owner.engine.lane_problems["rdma"])
    with pytest.raises(kt.LaneError, match=r"network card does not reach its region 0, which is CUDA memory"):
        reader.connect(owner)
    # The other way round it is the reader's own memory that the card does not reach.
    with pytest.raises(kt.LaneError, match=r"rdma does not carry component k from host memory to a GPU: " + REASON):
        owner.connect(reader)


@pytest.mark.usefixtures("claimed_as_cuda")
def test_host_memory_is_carried_beside_cuda_memory_that_is_not(make: Make) -> None:
    owner, reader = make(1, CUDA, HOST), make(2, CUDA, HOST, "v")
    assert reader.read(owner).lane == "rdma"
    expected = after_pull(Layout().make(2), owner.cache, [8, 9], [3, 4], 0, 32)
    expected[0] = Layout().make(2)[0]
    np.testing.assert_array_equal(reader.cache, expected)


@pytest.mark.usefixtures("host_as_cuda")
def test_what_a_card_registers_but_cannot_read_is_refused(make: Make) -> None:
    """UCX over TCP has no card that reads: a processor would have to send the bytes, and that is not allowed."""
    testing.rdma_over("tcp")
    owner = make(1, CUDA, HOST)
    assert "region 0 is CUDA memory, and a network card here cannot read it" in owner.engine.lane_problems["rdma"]


@pytest.mark.usefixtures("host_as_cuda")
def test_it_is_carried_where_staging_is_allowed(make: Make) -> None:
    testing.rdma_over("tcp")
    owner, reader = make(1, CUDA, HOST, staging=True), make(2, CUDA, HOST, staging=True)
    assert "rdma" not in owner.engine.lane_problems
    assert reader.read(owner).lane == "rdma"
    expected = after_pull(Layout().make(2), owner.cache, [8, 9], [3, 4], 0, 32)
    np.testing.assert_array_equal(reader.cache, expected)
