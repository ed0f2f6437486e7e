# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the router: takes the address, says when it is ready, and stops without dropping what runs."""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from .app import create_app
from .bounded_http import HEAD_SECONDS, BoundedHttp
from .listener import Acceptor, allow_connections, shown_address
from .tls import secured, server_context

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine
    from types import FrameType

    from .config import ProxyConfig
    from .crew import Crew
    from .router import Router

T = TypeVar("T")

# Longer than clients and load balancers keep idle connections: one that we close under their request fails it.
_KEEPALIVE_SECONDS = 75
# For the last words to requests that did not finish.
CLOSING_SECONDS = 5


class Server(uvicorn.Server):
    """Says on stdout when it takes requests, and drains before it stops.

    Told to stop, it goes on listening so that `/health` can say "draining" and new requests get an answer, until
    running ones have finished or `drain_timeout` has passed; then it closes. A second signal ends the waiting.
    """

    def __init__(self, config: ProxyConfig, sock: socket.socket, crew: Crew) -> None:
        app = create_app(config, crew)
        self.router: Router = app.state.router
        self.router.connections.room = allow_connections(config)
        head_seconds = min(HEAD_SECONDS, config.body_timeout)
        http: Any = partial(BoundedHttp, self.router.connections, head_seconds)
        context = server_context(config)
        self.scheme = "http" if context is None else "https"
        if context is not None:
            http = secured(self.router.connections, head_seconds, config.idle_timeout, context, http)
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
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
        )
        self.socket = sock
        self._acceptor: Acceptor | None = None
        self._drain_timeout = config.drain_timeout
        self._drained_by = math.inf  # on the monotonic clock

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets=sockets)
        if self.started:
            await self.tell_ready()
            self._acceptor = Acceptor(self.socket, self._make_connection, self.router.connections)
            self._acceptor.start()

    async def tell_ready(self) -> None:
        """What clients send from now on is served."""
        print(f"kvdirect proxy listening on {shown_address(self.socket, self.scheme)}", flush=True)

    def _make_connection(self) -> asyncio.BaseProtocol:
        make: Any = self.config.http_protocol_class
        connection: asyncio.BaseProtocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, at once."""
        if self.router.draining:
            super().handle_exit(sig, frame)
        else:
            self._drained_by = time.monotonic() + self._drain_timeout
            self.router.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        self.router.connections.settle()
        return await super().on_tick(counter) or self.is_drained()

    def is_drained(self) -> bool:
        """Whether it was told to stop, and need not wait any more."""
        return self.router.draining and (self.router.in_flight == 0 or time.monotonic() >= self._drained_by)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and tell who still waits."""
        self.stop_listening()
        self.router.stopping.set()  # whoever still runs is told; uvicorn's own bound would drop it without a word
        await super().shutdown(sockets=sockets)

    def stop_listening(self) -> None:
        """Take no more connections."""
        if self._acceptor is not None:
            self._acceptor.close()


def ignore_signals() -> None:
    """Swallow the signal that uvicorn raises again after it has stopped, so that a clean stop exits with 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signal, _frame: None)


def run(work: Coroutine[object, object, T]) -> T:
    """Run it on the fastest event loop that is installed."""
    # What was imported need not be looked through again and again, and requests leave few circles behind: with Python's
    # own thresholds an eighth of the processor time goes into looking for them.
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(work)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop, where it is installed; vLLM brings it."""
    try:
        import uvloop  # noqa: PLC0415 (as above)
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
