# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Times beyond what a clock can hold mean "as long as it takes", and times next to nothing do no harm."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Here
    from .harness import Remote

VAST = (threading.TIMEOUT_MAX, 1e10, 1e18, 1.7e308)


@pytest.mark.parametrize("timeout", VAST)
def test_a_pull_with_all_the_time_there_is(owner: Remote, reader: Here, lane: str, timeout: float) -> None:
    lease = owner.grant([1], watermark=16)
    assert reader.connect(owner, lane).pull(lease, [[1]], [[0]], stop=16, timeout=timeout).wait(30).bytes > 0


@pytest.mark.parametrize("timeout", VAST)
def test_connecting_with_all_the_time_there_is(owner: Remote, reader: Here, timeout: float) -> None:
    assert reader.engine.connect(owner.descriptor, timeout=timeout).alive


@pytest.mark.parametrize("term", [2e6, *VAST])
def test_a_lease_held_for_a_vast_term(owner: Remote, reader: Here, term: float) -> None:
    """The session goes on, and so does the lease once its first term is over."""
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16, term=1.0)
    peer.hold(lease, term=term)
    assert owner.call("wait_ended", timeout=2.0) == []
    assert peer.alive
    assert owner.call("counters")["bad_message"] == 0
    peer.pull(lease, [[1]], [[0]], stop=16).wait(30)


@pytest.mark.parametrize("affirm_within", VAST)
def test_a_lease_that_is_held_for_ever(owner: Remote, reader: Here, affirm_within: float) -> None:
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16, term=1.0)
    peer.hold(lease, term=1.0, affirm_within=affirm_within)
    assert owner.call("wait_ended", timeout=2.5) == []


def test_a_tiny_term_does_not_flood_the_owner(owner: Remote, reader: Here) -> None:
    """Some ten renewals a second at most; without a bound it was tens of thousands."""
    peer = reader.connect(owner)
    lease = owner.grant([1], watermark=16)
    before = reader.engine.counters()["renewals"]
    peer.hold(lease, term=1e-9)
    began = time.monotonic()
    time.sleep(1.0)
    renewals = reader.engine.counters()["renewals"] - before
    assert 0 < renewals <= 100 * (time.monotonic() - began)
