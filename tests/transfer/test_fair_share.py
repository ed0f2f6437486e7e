# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Readers that have every right and take all they can: the owner's descriptors are shared, and it keeps some."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from . import frames
from .frames import Address, Id
from .harness import Remote, until

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .conftest import Here

LIMIT = 200  # the owner's descriptors
SHARE = LIMIT // 2  # of them, for sessions
CROWD = 150


def same_reader(_number: int) -> int:
    return 1


def many_readers(number: int) -> int:
    return number + 1


class Crowd:
    """Sessions of somebody who has a descriptor."""

    def __init__(self, stack: contextlib.ExitStack, descriptor: bytes) -> None:
        self._stack = stack
        self._address = Address.of(descriptor)
        self.admitted: list[socket.socket] = []
        self.reasons: list[bytes] = []

    def come(self, count: int, reader: Callable[[int], int]) -> None:
        for number in range(count):
            sock = self._address.dial()
            message, body = self._address.ask(sock, reader=reader(number))
            if message == Id.WELCOME:
                self.admitted.append(self._stack.enter_context(sock))
            else:
                assert message == Id.REFUSE
                self.reasons.append(body)
                sock.close()

    def gone(self) -> int:
        """Of the admitted, how many were sent away."""
        return sum(not still_there(sock) for sock in self.admitted)


def still_there(sock: socket.socket) -> bool:
    try:
        sock.sendall(frames.frame(Id.PROBE))
        return frames.receive(sock)[0] == Id.PROOF
    except (EOFError, ConnectionError):
        return False


def pulls(owner: Remote, reader: Here, peer: kt.Peer) -> None:
    lease = owner.grant([4], watermark=16, term=300.0)
    peer.pull(lease, [[4]], [[0]], stop=16).wait(30)
    np.testing.assert_array_equal(reader.cache[:, :, 0], owner.layout.make(owner.seed)[:, :, 4])


def test_one_readers_sessions_leave_descriptors_and_make_room_for_another(owner: Remote, reader: Here) -> None:
    used = owner.call("limit_descriptors", most=LIMIT)
    assert used + SHARE + LIMIT // 4 < LIMIT
    with contextlib.ExitStack() as stack:
        crowd = Crowd(stack, owner.descriptor)
        crowd.come(CROWD, same_reader)
        assert len(crowd.admitted) == SHARE
        assert len(crowd.reasons) == CROWD - SHARE
        assert all(b"descriptors" in reason and b"ulimit -n" in reason for reason in crowd.reasons)
        assert owner.call("counters")["refused_sessions"] == CROWD - SHARE
        for lane in ("message", "shm", "cma"):
            pulls(owner, reader, reader.connect(owner, lane))
        assert 3 <= crowd.gone() <= 6, "the sessions it has too many of, the newest first"
        assert not still_there(crowd.admitted[-1])
        assert still_there(crowd.admitted[0])


def test_one_identity_keeps_no_other_out(owner: Remote, reader: Here) -> None:
    owner.call("limit_descriptors", most=LIMIT)
    greedy, modest = (kt.descriptor_for(owner.descriptor, reader=name, valid_for=600) for name in ("greedy", "modest"))
    with contextlib.ExitStack() as stack:
        crowd = Crowd(stack, greedy)
        crowd.come(CROWD, many_readers)
        assert len(crowd.admitted) == SHARE
        peer = reader.engine.connect(modest)
        again = Crowd(stack, greedy)
        again.come(CROWD, many_readers)
        assert len(again.admitted) <= 1, "what the other did not take"
        assert peer.alive
        pulls(owner, reader, peer)


def test_where_all_have_one_session_the_next_is_refused_at_once_with_the_reason(owner: Remote, reader: Here) -> None:
    owner.call("limit_descriptors", most=LIMIT)
    with contextlib.ExitStack() as stack:
        crowd = Crowd(stack, owner.descriptor)
        crowd.come(SHARE, many_readers)
        assert len(crowd.admitted) == SHARE
        with pytest.raises(kt.ConnectError, match=f"{SHARE} .*descriptors.*ulimit -n.*{LIMIT}"):
            reader.connect(owner)
        assert crowd.gone() == 0
    until(lambda: owner.call("counters")["sessions_ended"] == SHARE, "they have gone")
    pulls(owner, reader, reader.connect(owner))


def test_engines_of_one_process_share_its_descriptors(owner: Remote) -> None:
    other = owner.call("start_another")
    owner.call("limit_descriptors", most=2 * LIMIT)
    with contextlib.ExitStack() as stack:
        for descriptor in (owner.descriptor, bytes.fromhex(other)):
            crowd = Crowd(stack, descriptor)
            crowd.come(CROWD, same_reader)
            assert len(crowd.admitted) == SHARE
