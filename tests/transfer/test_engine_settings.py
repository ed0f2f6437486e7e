# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Settings of an engine that can be seen from outside only in what it does."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt
from kvtransfer import testing

from .harness import of_threads, until
from .layout import BIG, RDMA_HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Launch, MakeHere


def copy_threads() -> int:
    """Threads of this process that copy."""
    return of_threads("comm").count("kvd-copy\n")


@pytest.fixture
def rdma_over_tcp() -> Iterator[None]:
    """UCX over TCP stands in for RDMA: its devices have names, which those of shared memory have not."""
    testing.rdma_over("tcp")
    yield
    testing.rdma_over(RDMA_HERE)


@pytest.mark.parametrize("lane", ["shm", "cma"])
@pytest.mark.parametrize("threads", [1, 5])
def test_so_many_threads_copy(launch: Launch, here: MakeHere, threads: int, lane: str) -> None:
    before = copy_threads()
    owner, reader = launch(layout=BIG), here(BIG, copy_threads=threads)
    until(lambda: copy_threads() == before + threads, f"{threads} threads have their names")
    blocks = list(range(BIG.blocks))
    lease = owner.grant(blocks, watermark=BIG.blocks * BIG.block_size)
    peer = reader.connect(owner, lane)
    pulls = [peer.pull(lease, [blocks], [blocks], stop=BIG.blocks * BIG.block_size) for _ in range(3)]
    for pull in pulls:
        pull.wait(60)
    np.testing.assert_array_equal(reader.cache, owner.layout.make(owner.seed))
    assert copy_threads() == before + threads
    reader.engine.close()
    until(lambda: copy_threads() == before, "they end with their engine")


@pytest.mark.usefixtures("rdma_over_tcp")
def test_lane_rdma_uses_the_devices_that_are_named(here: MakeHere) -> None:
    owner, reader = here(seed=7, rdma_devices="lo"), here(rdma_devices="lo")
    lease = owner.engine.grant([[3]], watermark=16)
    peer = reader.engine.connect(owner.engine.descriptor(), lanes=("rdma",))
    assert peer.pull(lease, [[3]], [[5]], stop=16).wait(30).lane == "rdma"
    np.testing.assert_array_equal(reader.cache[:, :, 5], owner.cache[:, :, 3])


@pytest.mark.usefixtures("rdma_over_tcp")
def test_a_device_that_is_not_there_is_named_and_costs_that_lane_only(
    here: MakeHere, capfd: pytest.CaptureFixture[str]
) -> None:
    owner, reader = here(), here(rdma_devices="nosuchdevice0")
    descriptor = owner.engine.descriptor()
    with pytest.raises(kt.LaneError, match=r"rdma does not work: UCX cannot use rdma_devices=nosuchdevice0 .*No such"):
        reader.engine.connect(descriptor, lanes=("rdma",))
    assert "'lo'(tcp)" in "".join(capfd.readouterr()), "UCX says which there are"
    assert reader.engine.connect(descriptor).lanes == ("shm", "cma", "message")
    with pytest.raises(kt.LaneError, match="the owner has no RDMA"):
        owner.engine.connect(reader.engine.descriptor(), lanes=("rdma",))


def test_threads_that_end_while_they_are_counted_are_left_out() -> None:
    ended = threading.Event()

    def start_and_end() -> None:
        while not ended.is_set():
            threading.Thread(target=time.sleep, args=(0,)).start()

    starter = threading.Thread(target=start_and_end)
    starter.start()
    try:
        for _ in range(2000):
            assert len(of_threads("comm")) >= 2, "this one and the starter"
    finally:
        ended.set()
        starter.join()
