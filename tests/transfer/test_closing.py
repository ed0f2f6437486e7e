# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Letting go of peers and engines whose pulls are slow to be quiet: they read from an owner that was stopped."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

import kvtransfer as kt
from kvtransfer import testing
from kvtransfer.arrays import int_tables

from .layout import BIG, RDMA_HERE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Here, Launch, MakeHere
    from .harness import Remote


@pytest.fixture(autouse=True)
def reads_that_need_the_owner() -> Iterator[None]:
    """UCX over TCP: what was posted returns when the owner's process has answered, or its endpoint is given up."""
    testing.rdma_over("tcp")
    yield
    testing.rdma_over(RDMA_HERE)


@pytest.fixture
def stuck(launch: Launch, here: MakeHere) -> tuple[Here, Remote, kt.LeaseRef]:
    owner = launch(layout=BIG, rdma_devices="lo", rdma_over="tcp")
    return here(BIG, rdma_devices="lo"), owner, owner.grant(list(range(BIG.blocks)), watermark=BIG.blocks * 16)


BLOCKS = [list(range(BIG.blocks))]


def test_dropping_a_peer_keeps_no_other_thread_waiting(stuck: tuple[Here, Remote, kt.LeaseRef]) -> None:
    reader, owner, lease = stuck
    peer = reader.engine._native.connect(owner.descriptor, ["rdma"], "", 10.0)
    owner.process.freeze()
    pull = peer.pull(lease, BLOCKS, BLOCKS, 0, BIG.blocks * 16, 0, 30.0, "", None, False, int_tables, ("", None))
    turns = 0
    ended = threading.Event()

    def work() -> None:
        nonlocal turns
        while not ended.wait(0.001):
            turns += 1

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.2)
    assert not pull.quiet
    before, began = turns, time.monotonic()
    del peer
    after, took = turns, time.monotonic() - began
    ended.set()
    worker.join()
    # A turn takes a millisecond where the other thread may run, and there is none in all that time where it may not.
    assert after - before >= min(20, took / 0.05)


def test_every_close_returns_when_the_first_is_done(stuck: tuple[Here, Remote, kt.LeaseRef]) -> None:
    reader, owner, lease = stuck
    peer = reader.connect(owner, "rdma")
    owner.process.freeze()
    pull = peer.pull(lease, BLOCKS, BLOCKS, stop=BIG.blocks * 16)
    assert not pull.quiet
    ends = []

    def close() -> None:
        reader.engine.close()
        ends.append(time.monotonic())

    closers = [threading.Thread(target=close) for _ in range(3)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    # Giving up on what the owner does not answer takes seconds; none of them returns while another still waits for it.
    assert max(ends) - min(ends) < 1
