# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""The socket that clients connect to, and how connections are taken from it."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import socket
from typing import TYPE_CHECKING

from kvdirect.errors import CommandError
from kvdirect.log import SeldomLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import ProxyConfig
    from .connections import Connections

# Descriptors that are no connections of requests: health checks, the log, the loop's own.
_OTHER_FILES = 256
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Connections that are taken in one turn of the loop.
_BURST = 64
# Seconds that a worker leaves a connection to another one that has fewer; and until descriptors are looked for again.
_PATIENCE = 0.001
_NO_FILES_SECONDS = 0.1
# Seconds that the kernel waits for a client to take what it was sent, beyond those that the router does.
_LATER = 5.0

_log = logging.getLogger("kvdirect.proxy")


def listen(config: ProxyConfig) -> socket.socket:
    """Bind, so that a taken address is known before anything starts.

    Raises:
        CommandError: The address cannot be listened on.
    """
    host, port = config.host, config.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Those that are accepted inherit these. Without the second, what was closed with bytes that its client does
            # not take would stay for ever.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unread = math.ceil((config.idle_timeout + _LATER) * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(unread, (1 << 31) - 1))
            sock.setblocking(False)
            sock.bind(address)
            sock.listen(2048)  # a second listener is refused from here on
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port "
            "(--port 0 picks a free one)"
        ) from error
    return sock


def shown_address(sock: socket.socket, scheme: str) -> str:
    """The base URL of what listens here."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def allow_connections(config: ProxyConfig) -> int:
    """How many clients may be connected, after the soft limit of open files was raised to what that takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    upstream = 2 * config.max_in_flight  # each request may have a connection to prefill, and one to decode
    wanted = config.max_connections + upstream + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return config.max_connections
    room = soft - _OTHER_FILES - min(upstream, soft // 2)
    return max(1, min(config.max_connections, room))


class Acceptor:
    """Takes connections from the listening socket, which several workers may share.

    Not the loop's own server: uvloop's takes one connection in a turn, and closes those that there is no descriptor for
    without a word; and where workers share the socket, one that is quick takes all.
    """

    def __init__(self, sock: socket.socket, make: Callable[[], asyncio.BaseProtocol], connections: Connections) -> None:
        """Prepare to serve each connection with what `make` returns."""
        self._socket = sock
        self._make = make
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._log = SeldomLog(_log)

    def start(self) -> None:
        """Take what comes."""
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Take no more, and listen no more in this process."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _accept(self) -> None:
        if self._connections.more_than_elsewhere:
            self._wait(_PATIENCE)
        else:
            self._take()

    def _take(self) -> None:
        for _ in range(_BURST):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_FILES:
                    raise
                text = "no connection can be accepted now: %s; raise the limit of open files (ulimit -n)"
                self._log.warning(text, error)
                self._wait(_NO_FILES_SECONDS)
                return
            sock.setblocking(False)
            opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make, sock))
            self._opening.add(opening)
            opening.add_done_callback(self._opened)
            if self._connections.more_than_elsewhere:
                return

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()) is not None:
            self._log.warning("a connection that was accepted cannot be served: %s", error)

    def _wait(self, seconds: float) -> None:
        """Leave what comes for a moment."""
        self._loop.remove_reader(self._socket.fileno())
        self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self.start()
        self._take()
