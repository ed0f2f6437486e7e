# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: Copyright (c) 2026 The KVDirect authors
"""Runs the router: takes the address, says when it is ready, and stops without dropping what runs."""

import asyncio
import math
import signal
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from kvdirect.cli_errors import CommandError
from kvdirect.proxy_app import create_app

if TYPE_CHECKING:
    from types import FrameType

    from kvdirect.proxy_config import ProxyConfig
    from kvdirect.proxy_router import Router


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
    except OSError as exc:
        raise CommandError(
            f"cannot listen on {host} port {port}: {exc.strerror or exc}; choose another --host or --port "
            "(--port 0 picks a free one)"
        ) from exc
    return sock


class _Server(uvicorn.Server):
    """Says on stdout when it takes requests, and when told to stop gives running ones `drain_timeout` to finish."""

    def __init__(self, config: "ProxyConfig") -> None:
        app = create_app(config)
        # uvicorn's own bound is only the backstop: it drops requests without a word to their clients.
        backstop = math.ceil(config.drain_timeout) + 5
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=backstop,
            )
        )
        self._router: Router = app.state.router
        self._drain_timeout = config.drain_timeout

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"kvdirect proxy listening on http://{shown}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._drain_timeout, self._router.stopping.set)
        try:
            await super().shutdown(sockets=sockets)
        finally:
            timer.cancel()


def _stop_was_asked(_signal: int, _frame: "FrameType | None") -> None:
    """Swallow the signal that uvicorn raises again after it has stopped, so that a clean stop exits with 0."""


def serve(config: "ProxyConfig") -> int:
    """Serve until SIGTERM or SIGINT, then let running requests finish within `drain_timeout`.

    Returns:
        0, the exit status.

    Raises:
        CommandError: the address cannot be listened on.
    """
    sock = _listen(config.host, config.port)
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_was_asked)
    with sock:
        asyncio.run(server.serve(sockets=[sock]))
    sys.stdout.flush()
    return 0
