# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the router: takes the address, says when it is ready, and stops without dropping what runs."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from kvdirect.errors import CommandError
from kvdirect.log import SeldomLog

from .app import create_app
from .bounded_http import HEAD_SECONDS, BoundedHttp
from .tls import secured, server_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from .config import ProxyConfig
    from .router import Router

# Longer than clients and load balancers keep idle connections: one that we close under their request fails it.
_KEEPALIVE_SECONDS = 75
# For the last words to requests that did not finish.
_CLOSING_SECONDS = 5
# Descriptors that are no connections of requests: health checks, the log, the loop's own.
_OTHER_FILES = 256
# Descriptors of the listening socket beside the first: uvloop accepts one connection of each in a turn of its loop, and
# of a burst the last would wait for hundreds of turns.
_MORE_LISTENERS = 15
_FILES_LOOK_EVERY = 10  # ticks of uvicorn's, which are 0.1 s
_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger("kvdirect.proxy")


def _listen(host: str, port: int) -> socket.socket:
    """Bind, so that a taken address is known before anything starts."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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


class _Server(uvicorn.Server):
    """Says on stdout when it takes requests, and drains before it stops.

    Told to stop, it goes on listening so that `/health` can say "draining" and new requests get an answer, until
    running ones have finished or `drain_timeout` has passed; then it closes. A second signal ends the waiting.
    """

    def __init__(self, config: ProxyConfig) -> None:
        app = create_app(config)
        self._router: Router = app.state.router
        self._router.connections.limit = _allow_connections(config)
        head_seconds = min(HEAD_SECONDS, config.body_timeout)
        http: Any = partial(BoundedHttp, self._router.connections, head_seconds)
        context = server_context(config)
        self._scheme = "http" if context is None else "https"
        if context is not None:
            http = secured(self._router.connections, head_seconds, context, http)
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                ws="none",
                proxy_headers=False,  # a client that is believed about its address could be anybody in the log
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_keep_alive=_KEEPALIVE_SECONDS,
                timeout_graceful_shutdown=_CLOSING_SECONDS,
            )
        )
        self._log = SeldomLog(_log)
        self._drain_timeout = config.drain_timeout
        self._drained_by = math.inf  # on the monotonic clock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"kvdirect proxy listening on {self._scheme}://{shown}:{port}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._router.draining:
            super().handle_exit(sig, frame)
        else:
            self._drained_by = time.monotonic() + self._drain_timeout
            self._router.draining = True

    async def on_tick(self, counter: int) -> bool:
        if counter % _FILES_LOOK_EVERY == 0:
            self._look_for_files()
        if await super().on_tick(counter):
            return True
        return self._router.draining and (self._router.in_flight == 0 or time.monotonic() >= self._drained_by)

    def _look_for_files(self) -> None:
        """Say where connections cannot be accepted: uvloop closes them without a word, asyncio has too many."""
        try:
            os.close(os.dup(0))
        except OSError as error:
            if error.errno in _NO_FILES:
                text = "no connection can be accepted now: %s; raise the limit of open files (ulimit -n)"
                self._log.warning(text, error)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._router.stopping.set()  # whoever still runs is told; uvicorn's own bound would drop it without a word
        await super().shutdown(sockets=sockets)


def _stop_was_asked(_signal: int, _frame: FrameType | None) -> None:
    """Swallow the signal that uvicorn raises again after it has stopped, so that a clean stop exits with 0."""


def _allow_connections(config: ProxyConfig) -> int:
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


def _loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio does, but for connections that cannot be accepted: it logs thousands of traces a second of those."""
    error = context.get("exception")
    no_files = isinstance(error, OSError) and error.errno in _NO_FILES
    # Else it is one of the thousand times that asyncio tries again a second later, on a socket closed since.
    if not no_files and not (isinstance(error, ValueError) and "_start_serving" in str(context.get("message"))):
        loop.default_exception_handler(context)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, where it is installed; vLLM brings it."""
    try:
        import uvloop  # noqa: PLC0415 (as above)
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _run(server: _Server, sock: socket.socket) -> None:
    asyncio.get_running_loop().set_exception_handler(_loop_error)
    await server.serve(sockets=[sock, *(sock.dup() for _ in range(_MORE_LISTENERS))])


def serve(config: ProxyConfig) -> int:
    """Serve until SIGTERM or SIGINT, then let running requests finish within `drain_timeout`.

    Returns:
        0, the exit status.

    Raises:
        CommandError: The address cannot be listened on.
    """
    sock = _listen(config.host, config.port)
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_was_asked)
    # What was imported need not be looked through again and again, and requests leave few circles behind: with Python's
    # own thresholds an eighth of the processor time goes into looking for them.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    with sock, asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        runner.run(_run(server, sock))
    sys.stdout.flush()
    return 0
