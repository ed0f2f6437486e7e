# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One question and its answer over a connection of its own, every step under one deadline."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvdirect.keys.tls import Credentials

    from .frames import FrameReader
    from .neighbour import Neighbours

_READ = 1 << 20


class BrokenOffError(Exception):
    """Another thread has no use for the answer any more."""


class Breakable:
    """Exchanges of one thread, of which another thread may break the present one off."""

    def __init__(self) -> None:
        """Nothing goes on yet."""
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._broken = False

    def begin(self) -> None:
        """From here on a `break_off` is of what comes next."""
        with self._lock:
            self._broken = False

    def break_off(self) -> None:
        """End the exchange at once; one that is to come, as soon as it has a connection."""
        with self._lock:
            self._broken = True
            if self._sock is not None:
                _cut(self._sock)

    @contextlib.contextmanager
    def over(self, sock: socket.socket) -> Iterator[None]:
        """While this connection is the one to be cut.

        Raises:
            BrokenOffError: It was.
        """
        with self._lock:
            if self._broken:
                raise BrokenOffError
            self._sock = sock
        failed: OSError | None = None
        try:
            yield
        except OSError as error:
            failed = error
        finally:
            with self._lock:
                self._sock = None
        if self._broken:  # also where an answer came: of who was cut off the owner cannot tell who it is
            raise BrokenOffError from None
        if failed is not None:
            raise failed


def exchange(
    address: str,
    port: int,
    question: bytes,
    frame: FrameReader,
    deadline: float,
    credentials: Credentials | None = None,
    neighbours: Neighbours | None = None,
    breakable: Breakable | None = None,
) -> int | None:
    """Connect, send a frame, and read the answer into `frame`, and not a byte more; with `credentials` by TLS.

    Returns:
        With `neighbours`, whose process answers, as they say.

    Raises:
        WireError: The answer is none that `frame` takes.
        OSError: Nobody listens there, or the connection ended; TimeoutError: the deadline is over.
        BrokenOffError: It was broken off by `breakable`.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((address, port), timeout=_left(deadline)))
        sock.settimeout(_left(deadline))
        if credentials is not None:
            sock = stack.enter_context(credentials.client.wrap_socket(sock))
            credentials.peer_of(sock)
        if breakable is not None:
            stack.enter_context(breakable.over(sock))
        sock.sendall(question)
        while frame.missing:
            sock.settimeout(_left(deadline))
            data = sock.recv(min(frame.missing, _READ))
            if not data:
                raise ConnectionError("the connection ended before the answer")
            frame.take(data)
        # Until a process has accepted the connection it is nobody's.
        return None if neighbours is None else neighbours.user_of_peer(sock)


def _cut(sock: socket.socket) -> None:
    """Whoever waits for it, waits no more; TLS, which is another thread's, has no part in that."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
