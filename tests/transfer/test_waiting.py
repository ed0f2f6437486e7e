# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Many pulls of the message lane at once: those that wait, those that are cancelled, and those of very many runs."""

from __future__ import annotations

import signal
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .harness import until, wire
from .layout import BIG, Layout

if TYPE_CHECKING:
    from .conftest import Launch, MakeHere

# Every other block of it is 160 runs of its own: the layers of k and v.
SCATTERED = Layout(layers=80, blocks=12_500, block_size=1, heads=1, width=1)


@pytest.mark.parametrize("streams", [1, 2])
def test_a_waiting_pull_starts_when_the_watermark_is_raised(launch: Launch, here: MakeHere, streams: int) -> None:
    owner, reader = launch(layout=BIG, message_streams=streams), here(BIG, message_streams=streams)
    peer = reader.connect(owner, "message")
    blocks = list(range(streams * 20))
    stop = len(blocks) * BIG.block_size
    delays = []
    for _ in range(5):
        lease = owner.grant(blocks, term=300.0)
        waiting = peer.pull(lease, [blocks], [blocks], stop=stop, timeout=60.0)
        time.sleep(0.02)
        owner.call("raise_watermark", lease=wire(lease), positions=stop)
        raised = time.monotonic()
        waiting.wait(30)
        delays.append(time.monotonic() - raised)
    assert statistics.median(delays) < 0.05, f"the owner looks at its lease 200 ms later: {delays}"


def test_a_waiting_pull_hears_that_its_lease_ended(launch: Launch, here: MakeHere) -> None:
    owner, reader = launch(), here()
    peer = reader.connect(owner, "message")
    delays = []
    for _ in range(5):
        lease = owner.grant([4], term=300.0)
        waiting = peer.pull(lease, [[4]], [[0]], stop=16, timeout=60.0)
        time.sleep(0.02)
        owner.call("revoke", lease=wire(lease))
        ended = time.monotonic()
        with pytest.raises(kt.LeaseExpired):
            waiting.wait(30)
        delays.append(time.monotonic() - ended)
    assert statistics.median(delays) < 0.05, delays


def test_pulls_that_wait_do_not_stop_one_that_is_ready(launch: Launch, here: MakeHere) -> None:
    owner, reader = launch(), here()
    peer = reader.connect(owner, "message")
    later, ready = owner.grant([4], term=300.0), owner.grant([5], watermark=16, term=300.0)
    waiting = [peer.pull(later, [[4]], [[0]], stop=16, timeout=60.0) for _ in range(1000)]
    peer.pull(ready, [[5]], [[1]], stop=16, timeout=30.0).wait(30)
    assert not any(pull.done for pull in waiting)
    owner.call("raise_watermark", lease=wire(later), positions=16)
    for pull in waiting:
        pull.wait(30)
    whole = owner.layout.make(owner.seed)
    np.testing.assert_array_equal(reader.cache[:, :, [0, 1]], whole[:, :, [4, 5]])


def test_cancelled_pulls_leave_no_one_refused(launch: Launch, here: MakeHere) -> None:
    """However slowly the owner hears of them."""
    owner, reader = launch(), here()
    peer = reader.connect(owner, "message")
    lease = owner.grant([4], watermark=16, term=300.0)
    owner.process.freeze()
    for _ in range(1000):
        peer.pull(lease, [[4]], [[0]], stop=16, timeout=60.0).cancel()
    good = peer.pull(lease, [[4]], [[0]], stop=16, timeout=60.0)
    owner.process.signal(signal.SIGCONT)
    good.wait(30)
    assert peer.alive


@pytest.mark.parametrize(
    ("count", "pulls"), [pytest.param(2048, 4, id="327,680 runs"), pytest.param(6250, 1, id="1,000,000 runs")]
)
def test_a_reader_may_ask_for_very_many_runs(launch: Launch, here: MakeHere, count: int, pulls: int) -> None:
    owner = launch(layout=SCATTERED, message_streams=1, share=False)
    reader = here(SCATTERED, message_streams=1, share=False)
    blocks = list(range(0, 2 * count, 2))
    lease = owner.grant(blocks, watermark=count, term=300.0)
    peer = reader.connect(owner, "message")
    running = [peer.pull(lease, [blocks], [blocks], stop=count, timeout=60.0) for _ in range(pulls)]
    for pull in running:
        assert pull.wait(60).runs == count * 160
    expected = reader.before.copy()
    expected[:, :, blocks] = owner.layout.make(owner.seed)[:, :, blocks]
    np.testing.assert_array_equal(reader.cache, expected)
    assert peer.alive


def test_a_pull_cancelled_while_it_is_asked_for_leaves_the_session_in_order(launch: Launch, here: MakeHere) -> None:
    owner = launch(layout=SCATTERED, message_streams=1, share=False)
    reader = here(SCATTERED, message_streams=1, share=False)
    blocks = list(range(0, 12_500, 2))
    lease = owner.grant(blocks, watermark=len(blocks), term=300.0)
    peer = reader.connect(owner, "message")
    owner.process.freeze()
    given_up = [peer.pull(lease, [blocks], [blocks], stop=len(blocks), timeout=60.0) for _ in range(2)]
    time.sleep(0.1)
    for pull in given_up:
        pull.cancel()
    until(lambda: all(pull.quiet for pull in given_up), "nothing can land any more")
    reader.cache[:] = reader.before
    few = blocks[:10]
    good = peer.pull(lease, [few], [few], stop=10, timeout=60.0)
    owner.process.signal(signal.SIGCONT)
    good.wait(30)
    expected = reader.before.copy()
    expected[:, :, few] = owner.layout.make(owner.seed)[:, :, few]
    np.testing.assert_array_equal(reader.cache, expected)
    assert peer.alive
