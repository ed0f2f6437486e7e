# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""One question and its answer over a connection of its own, every step under one deadline."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvdirect.keys.tls import Credentials

    from .frames import FrameReader
    from .neighbour import Neighbours

_READ = 1 << 20


def exchange(
    address: str,
    port: int,
    question: bytes,
    frame: FrameReader,
    deadline: float,
    credentials: Credentials | None = None,
    neighbours: Neighbours | None = None,
) -> int | None:
    """Connect, send a frame, and read the answer into `frame`, and not a byte more; with `credentials` by TLS.

    Returns:
        With `neighbours`, whose process answers, as they say.

    Raises:
        WireError: The answer is none that `frame` takes.
        OSError: Nobody listens there, or the connection ended; TimeoutError: the deadline is over.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection((address, port), timeout=_left(deadline)))
        sock.settimeout(_left(deadline))
        if credentials is not None:
            sock = stack.enter_context(credentials.client.wrap_socket(sock))
            credentials.peer_of(sock)
        sock.sendall(question)
        while frame.missing:
            sock.settimeout(_left(deadline))
            data = sock.recv(min(frame.missing, _READ))
            if not data:
                raise ConnectionError("the connection ended before the answer")
            frame.take(data)
        # Until a process has accepted the connection it is nobody's.
        return None if neighbours is None else neighbours.user_of_peer(sock)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
