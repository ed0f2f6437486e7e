# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Strangers that connect to an engine's sockets: their bytes are dropped, and they are in nobody's way."""

from __future__ import annotations

import array
import contextlib
import fcntl
import signal
import socket
import termios
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kvtransfer as kt

from .harness import DEADLINE, Remote, listening_ports
from .layout import publish

if TYPE_CHECKING:
    from .conftest import Here

# More than an engine lets wait at its gate and behind its shield together.
CROWD = 300


def unacknowledged(sock: socket.socket) -> int:
    """Bytes sent that the other side's kernel has not taken."""
    waiting = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, waiting)
    return waiting[0]


def test_data_of_strangers_never_gets_past_the_kernel(owner: Remote) -> None:
    held_back = []
    with contextlib.ExitStack() as stack:
        for port in listening_ports(owner.process.pid):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            sock.sendall(b"12345678")
            time.sleep(0.5)
            held_back.append(unacknowledged(sock) == 8)
    assert sorted(held_back) == [False, True, True], "only the gate itself listens to strangers"


def test_a_crowd_of_strangers_keeps_no_reader_out(owner: Remote, reader: Here) -> None:
    lease = owner.grant([4, 5], watermark=32, term=300.0)
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for port in listening_ports(owner.process.pid)
            for _ in range(CROWD)
        ]
        peer = reader.connect(owner, "message")
        peer.pull(lease, [[4, 5]], [[0, 1]], stop=32).wait(30)
        whole = owner.layout.make(owner.seed)
        np.testing.assert_array_equal(reader.cache[:, :, [0, 1]], whole[:, :, [4, 5]])
        deadline = time.monotonic() + 20
        while sum(map(has_ended, crowd)) < len(crowd) // 2:
            assert time.monotonic() < deadline, "strangers stay for ever"
            time.sleep(0.1)
    assert peer.alive


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 3, 4, 6])
def test_an_owner_that_stalls_while_a_reader_connects_costs_only_time(owner: Remote, milliseconds: int) -> None:
    """Longer than any of the connect's own pauses; whatever UCX sent in vain meanwhile is sent again."""
    engine = kt.Engine(kt.EngineConfig(lanes=("message",)), name="reader")
    publish(engine, owner.layout.make(2))

    def stall() -> None:
        time.sleep(milliseconds / 1000)
        owner.process.signal(signal.SIGSTOP)
        time.sleep(4)
        owner.process.signal(signal.SIGCONT)

    stalling = threading.Thread(target=stall)
    stalling.start()
    try:
        peer = engine.connect(owner.descriptor, timeout=DEADLINE)
        assert peer.alive
    finally:
        stalling.join()
        engine.close()


def test_a_reader_says_how_far_it_got(owner: Remote) -> None:
    engine = kt.Engine(name="reader")
    publish(engine, owner.layout.make(2))
    owner.process.signal(signal.SIGSTOP)
    try:
        with pytest.raises(kt.ConnectError, match="not admitted"):
            engine.connect(owner.descriptor, timeout=0.5)
    finally:
        owner.process.signal(signal.SIGCONT)
        engine.close()


def has_ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
